"""What a codec is judged by: distortion, rate, and the average distance between two rate-distortion curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bitdial.compression.coding.arrays import check_whole
from bitdial.errors import BitdialError

Method = Literal["pchip", "akima", "cubic"]

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
_LEAST_POINTS = {"pchip": 2, "akima": 3, "cubic": 4}


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture: -10 log10 of the mean squared error; equal ones have infinity.

    Args:
        x, y: ``[N, C, H, W]`` with values from 0 to 1.

    Returns:
        float64 ``[N]``. Over many pictures the mean of these is what papers give.
    """
    x, y = _pictures(x, y)
    return -10 * (x - y).square().flatten(1).mean(1).log10()


def ms_ssim(x: Tensor, y: Tensor, *, scales: int = 5) -> Tensor:
    """Multi-scale structural similarity of each picture, 1 for equal ones.

    Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment" (Asilomar 2003): a
    Gaussian window of 11 x 11 with standard deviation 1.5, only where it lies wholly inside, K = .01 and .03, halving
    by means of 2 x 2 (an odd last row or column counts twice), structure below 0 counts as 0; the mean over channels.

    Args:
        x, y: ``[N, C, H, W]`` with values from 0 to 1.
        scales: fewer than 5 for pictures with a side below 161 (`most_scales`): the weights are then divided by their
            sum, and the numbers do not compare with those of 5.

    Returns:
        float64 ``[N]``.

    Raises:
        BitdialError: the pictures are too small for so many scales.
    """
    x, y = _pictures(x, y)
    check_whole("scales", scales, 1, len(_WEIGHTS))
    if scales > (most := most_scales(*x.shape[-2:])):
        advice = f"pass scales={most}, whose numbers do not compare with those of 5" if most else "use psnr"
        least = (_WINDOW - 1) * 2 ** (scales - 1) + 1
        height, width = x.shape[-2:]
        raise BitdialError(
            f"ms_ssim with {scales} scales needs {least} pixels on both sides, got {width} x {height}; {advice}"
        )
    weights = x.new_tensor(_WEIGHTS[:scales]) / sum(_WEIGHTS[:scales])
    terms = []
    for scale in range(scales):
        if scale:
            x, y = _halved(x), _halved(y)
        luminance, structure = _similarity(x, y)
        terms.append((luminance * structure if scale == scales - 1 else structure).mean((2, 3)).clamp_min(0))
    return torch.stack(terms, -1).pow(weights).prod(-1).mean(1)


def most_scales(height: int, width: int) -> int:
    """How many scales of `ms_ssim`, up to 5, a picture has room for; 0 where even one window is too large."""
    return sum(min(height, width) > (_WINDOW - 1) * 2**scale for scale in range(len(_WEIGHTS)))


def bpp(size: int, height: int, width: int) -> float:
    """Bits per pixel of `size` bytes for a picture of so many pixels: colours do not count as pixels."""
    check_whole("size", size, 0)
    check_whole("height", height, 1)
    check_whole("width", width, 1)
    return 8 * size / (height * width)


def bd_rate(
    bpp_a: Sequence[float],
    psnr_a: Sequence[float],
    bpp_b: Sequence[float],
    psnr_b: Sequence[float],
    method: Method = "pchip",
) -> float:
    """By how many percent curve b's rate is above curve a's at equal quality, on average: below 0 where b is better.

    The mean distance of log(rate) as a function of quality, over the qualities that both curves reach. Bjøntegaard,
    "Calculation of average PSNR differences between RD-curves" (VCEG-M33, 2001): that is "cubic", a polynomial of
    degree 3; "pchip" and "akima" go through every point without its swings.

    Args:
        bpp_a, psnr_a: the points of curve a, the anchor, in any order.
        bpp_b, psnr_b: the points of curve b.
        method: what lies between the points.

    Raises:
        BitdialError: too few points, points that are not finite or without rate, two of equal quality, or curves that
            share no range of it.
    """
    (rate_a, quality_a), (rate_b, quality_b) = _curve("a", bpp_a, psnr_a), _curve("b", bpp_b, psnr_b)
    return 100 * math.expm1(_mean_gap((quality_a, rate_a), (quality_b, rate_b), method, "quality"))


def bd_psnr(
    bpp_a: Sequence[float],
    psnr_a: Sequence[float],
    bpp_b: Sequence[float],
    psnr_b: Sequence[float],
    method: Method = "pchip",
) -> float:
    """By how many dB curve b's quality is above curve a's at equal rate, on average: above 0 where b is better.

    The mean distance of quality as a function of log(rate); arguments and errors are those of `bd_rate`, with rate and
    quality in each other's place.
    """
    return _mean_gap(_curve("a", bpp_a, psnr_a), _curve("b", bpp_b, psnr_b), method, "rate")


def _pictures(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    for value in (x, y):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim != 4 or not value.numel():
            got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise BitdialError(
                f"pictures must be floating-point tensors [N, C, H, W] with values from 0 to 1, got {got}"
            )
        low, high = value.double().aminmax()
        if not 0 <= low <= high <= 1:
            raise BitdialError(f"pictures must have values from 0 to 1, got {low:g} to {high:g}; clamp or scale them")
    if x.shape != y.shape or x.device != y.device:
        raise BitdialError(
            f"both pictures must have one shape and device, got {tuple(x.shape)} on {x.device} and {tuple(y.shape)} on "
            f"{y.device}"
        )
    return x.double(), y.double()


def _halved(x: Tensor) -> Tensor:
    odd = (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)
    return functional.avg_pool2d(functional.pad(x, odd, mode="replicate"), 2)


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and structure (with contrast) of each window."""
    places = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    window = torch.exp(-(places**2) / (2 * _SIGMA**2))
    window = window / window.sum()
    channels = x.shape[1]

    def blur(z: Tensor) -> Tensor:
        z = functional.conv2d(z, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return functional.conv2d(z, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return luminance, (2 * covariance + 0.03**2) / (variances + 0.03**2)


def _curve(name: str, rates: Sequence[float], qualities: Sequence[float]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Logarithms of rates, and qualities."""
    try:
        rate, quality = np.asarray(rates, np.float64), np.asarray(qualities, np.float64)
    except (TypeError, ValueError) as error:
        raise BitdialError(
            f"curve {name} must be numbers, got {type(rates).__name__}s that are none ({error})"
        ) from error
    if rate.ndim != 1 or rate.shape != quality.shape:
        raise BitdialError(f"curve {name} must have as many rates as qualities, got {rate.shape} and {quality.shape}")
    if not (np.isfinite(rate) & np.isfinite(quality) & (rate > 0)).all():
        raise BitdialError(f"curve {name} must have rates above 0 and finite qualities, got {rates} and {qualities}")
    return np.log(rate), quality


def _mean_gap(
    a: tuple[NDArray[Any], NDArray[Any]], b: tuple[NDArray[Any], NDArray[Any]], method: Method, axis: str
) -> float:
    """The mean of b - a over the part of the axis that both reach."""
    if method not in get_args(Method):
        raise BitdialError(f"method must be pchip, akima or cubic, got {method!r}")
    integrals = []
    for name, (x, y) in (("a", a), ("b", b)):
        order = np.argsort(x)
        x, y = x[order], y[order]
        if len(x) < _LEAST_POINTS[method]:
            raise BitdialError(f"curve {name} needs {_LEAST_POINTS[method]} points or more for {method}, got {len(x)}")
        if (np.diff(x) <= 0).any():
            raise BitdialError(f"curve {name} must have no two points of equal {axis}; leave the worse one out")
        integrals.append(_integral(x, y, method))
    low, high = max(a[0].min(), b[0].min()), min(a[0].max(), b[0].max())
    if low >= high:
        ends = [f"{_shown(x.min(), axis)} to {_shown(x.max(), axis)}" for x, _ in (a, b)]
        raise BitdialError(f"curves must overlap in {axis}, got {ends[0]} and {ends[1]}; add points between them")
    return float(integrals[1](low, high) - integrals[0](low, high)) / float(high - low)


def _shown(value: float, axis: str) -> str:
    return f"{math.exp(value):.4g} bpp" if axis == "rate" else f"{value:.4g} dB"


def _integral(x: NDArray[Any], y: NDArray[Any], method: Method) -> Callable[[float, float], float]:
    # Loaded here: half a second that other parts of the room need not wait for.
    from scipy.interpolate import Akima1DInterpolator, PchipInterpolator  # type: ignore[import-untyped]

    if method == "cubic":
        whole = np.polynomial.Polynomial.fit(x, y, 3).integ()
        return lambda low, high: float(whole(high) - whole(low))
    return (PchipInterpolator if method == "pchip" else Akima1DInterpolator)(x, y).integrate  # type: ignore[no-any-return]
