"""PSNR and MS-SSIM against computations by hand, BD figures against published curves, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitdial.compression.metrics import bd_psnr, bd_rate, bpp, most_scales, ms_ssim, psnr
from bitdial.errors import BitdialError

# HPCM on Kodak, as published.
BASE = [0.1211, 0.1757, 0.2729, 0.4125, 0.5898, 0.8209], [29.4022, 30.7547, 32.4012, 34.2063, 36.0145, 37.7525]
LARGE = [0.0951, 0.1537, 0.2438, 0.3778, 0.5516, 0.7843], [28.9135, 30.4490, 32.1219, 33.9923, 35.8511, 37.7480]
METHODS = ("pchip", "akima", "cubic")


def pair(height: int, width: int, channels: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(2, channels, height, width, generator=generator, dtype=torch.float64)
    x = torch.nn.functional.avg_pool2d(rough, 5, 1, 2)
    return x, (x + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)


def test_psnr_of_a_known_error() -> None:
    x = torch.full((2, 3, 4, 4), 0.5)
    y = x.clone()
    y[0] += 0.1
    assert psnr(x, y).tolist() == pytest.approx([20, math.inf], rel=1e-6)
    assert psnr(x, y).dtype == torch.float64
    assert psnr(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).item() == 0
    assert psnr(x.half(), y.half()).isfinite().tolist() == [True, False]


def by_hand(x: np.ndarray, y: np.ndarray, scales: int) -> float:
    """MS-SSIM of one channel, with a two-dimensional window, pixel by pixel as the definition says."""
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    axis = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(axis, axis) / np.outer(axis, axis).sum()
    result = 1.0
    for scale in range(scales):
        if scale:
            x, y = (np.pad(z, [(0, s % 2) for s in z.shape], mode="edge") for z in (x, y))
            x, y = (z.reshape(z.shape[0] // 2, 2, z.shape[1] // 2, 2).mean((1, 3)) for z in (x, y))
        a, b = (np.lib.stride_tricks.sliding_window_view(z, (11, 11)) for z in (x, y))
        mean_a, mean_b = ((z * window).sum((2, 3)) for z in (a, b))
        centred_a, centred_b = a - mean_a[..., None, None], b - mean_b[..., None, None]
        spread = ((centred_a**2 + centred_b**2) * window).sum((2, 3))
        structure = (2 * (centred_a * centred_b * window).sum((2, 3)) + 9e-4) / (spread + 9e-4)
        luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        term = (structure * luminance if scale == scales - 1 else structure).mean()
        result *= max(0.0, term) ** (weights[scale] / weights.sum())
    return float(result)


@pytest.mark.parametrize(("height", "width", "scales"), [(176, 161, 5), (47, 63, 3), (11, 12, 1)])
def test_ms_ssim_is_what_the_definition_says(height: int, width: int, scales: int) -> None:
    x, y = pair(height, width, 2)
    expected = [np.mean([by_hand(*(z[i, c].numpy() for z in (x, y)), scales) for c in range(2)]) for i in range(2)]
    assert ms_ssim(x, y, scales=scales).tolist() == pytest.approx(expected, rel=1e-9)
    assert ms_ssim(x.float(), y.float(), scales=scales).tolist() == pytest.approx(expected, rel=1e-5)


def test_ms_ssim_is_near_to_anothers() -> None:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as other

    x, y = pair(192, 240)
    assert ms_ssim(x, y).mean().item() == pytest.approx(other(x, y, data_range=1.0).item(), abs=1e-3)  # other edges


def test_ms_ssim_is_one_for_equal_pictures_and_never_nan() -> None:
    x, _ = pair(161, 170)
    assert ms_ssim(x, x).tolist() == pytest.approx([1, 1])
    assert ms_ssim(x, 1 - x).tolist() == [0, 0]  # structure turned round
    flat = torch.zeros(1, 1, 161, 161)
    assert ms_ssim(flat, flat).item() == 1


def test_small_pictures_take_fewer_scales() -> None:
    assert [most_scales(side, 500) for side in (10, 11, 20, 21, 40, 41, 80, 81, 160, 161, 4000)] == [
        0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5,
    ]  # fmt: skip
    x, y = pair(100, 90)
    with pytest.raises(BitdialError, match="5 scales needs 161 pixels on both sides, got 90 x 100; pass scales=4"):
        ms_ssim(x, y)
    assert 0 < ms_ssim(x, y, scales=most_scales(100, 90)).min() < 1
    with pytest.raises(BitdialError, match="got 9 x 30; use psnr"):
        ms_ssim(*pair(30, 9))


def test_bits_per_pixel() -> None:
    assert bpp(1000, 20, 40) == 10
    assert bpp(0, 1, 1) == 0
    for arguments in ((-1, 2, 2), (1, 0, 2), (1, 2, 0), (1.5, 2, 2), (True, 2, 2), (1, "2", 2), (1, 2, None)):
        with pytest.raises(BitdialError, match="must be a whole number"):
            bpp(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "expected"), [("cubic", -4.354961), ("pchip", -4.264873), ("akima", -4.273395)])
def test_bd_rate_of_published_curves(method: Any, expected: float) -> None:
    assert bd_rate(*BASE, *LARGE, method=method) == pytest.approx(expected, abs=5e-7)
    back = bd_rate(*LARGE, *BASE, method=method)
    assert (1 + expected / 100) * (1 + back / 100) == pytest.approx(1, abs=1e-6)
    assert bd_psnr(*BASE, *LARGE, method=method) == pytest.approx(0.187, abs=0.004)
    shuffled = ([values[i] for i in (3, 0, 5, 1, 4, 2)] for values in LARGE)
    assert bd_rate(*BASE, *shuffled, method=method) == pytest.approx(expected, abs=5e-7)


def test_pchip_is_the_default() -> None:
    assert bd_rate(*BASE, *LARGE) == bd_rate(*BASE, *LARGE, method="pchip")
    assert bd_psnr(*BASE, *LARGE) == bd_psnr(*BASE, *LARGE, method="pchip")


@settings(deadline=None, max_examples=60)
@given(st.floats(0.3, 3), st.floats(-2, 2), st.sampled_from(METHODS))
def test_curves_a_factor_or_some_db_apart(factor: float, decibel: float, method: Any) -> None:
    """Rates times a factor: the percentage is that factor, by every method; likewise qualities plus a constant."""
    rates, qualities = BASE
    assert bd_rate(*BASE, [factor * rate for rate in rates], qualities, method) == pytest.approx(
        100 * (factor - 1), abs=1e-6
    )
    moved = [quality + decibel for quality in qualities]
    assert bd_psnr(*BASE, rates, moved, method) == pytest.approx(decibel, abs=1e-9)


def test_only_the_qualities_that_both_curves_reach_count() -> None:
    a = [1.0, 2, 4, 8, 16, 32], [20.0, 23, 26, 29, 32, 35]
    b = [0.5 * 2**4, 16, 32, 64, 128], [32.0, 35, 38, 41, 44]  # half the rate at 32 and 35 dB; anything above
    for method in METHODS:
        assert bd_rate(*a, *b, method=method) == pytest.approx(-50, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_as_few_points_as_a_method_takes(method: Any) -> None:
    least = {"pchip": 2, "akima": 3, "cubic": 4}[method]
    few = [values[:least] for values in BASE], [values[:least] for values in LARGE]
    assert math.isfinite(bd_rate(*few[0], *few[1], method=method))
    with pytest.raises(BitdialError, match=f"curve b needs {least} points or more for {method}, got {least - 1}"):
        bd_rate(*few[0], few[1][0][1:], few[1][1][1:], method=method)


@pytest.mark.parametrize(
    ("b", "method", "text"),
    [
        (
            ([0.1, 0.2, 0.3, 0.4], [10, 12, 13, 14]),
            "pchip",
            "must overlap in quality, got 29.4 dB to 37.75 dB and 10 dB to",
        ),
        (([0.1, 0.2, 0.3, 0.4], [37.7525, 38, 39, 40]), "pchip", "must overlap in quality"),
        (([0.1, 0.2, 0.3], [30, 31, 32]), "cubic", "curve b needs 4 points or more for cubic, got 3"),
        (([], []), "pchip", "curve b needs 2 points or more for pchip, got 0"),
        (([0.1, 0.2, 0.3], [30, 30, 32]), "pchip", "curve b must have no two points of equal quality"),
        (([0.1, 0.2], [30, 31, 32]), "pchip", r"as many rates as qualities, got \(2,\) and \(3,\)"),
        (([0.0, 0.2], [30, 31]), "pchip", "rates above 0 and finite"),
        (([-0.1, 0.2], [30, 31]), "pchip", "rates above 0"),
        (([0.1, math.inf], [30, 31]), "pchip", "rates above 0 and finite"),
        (([0.1, 0.2], [30, math.nan]), "pchip", "finite qualities"),
        (([0.1, 0.2], [30, math.inf]), "pchip", "finite qualities"),
        (([[0.1, 0.2]], [[30, 31]]), "pchip", r"got \(1, 2\)"),
        ((["a", "b"], [30, 31]), "pchip", "curve b must be numbers"),
        ((None, [30, 31]), "pchip", "curve b must"),
        (LARGE, "spline", "method must be pchip, akima or cubic, got 'spline'"),
        (LARGE, None, "method must be .* got None"),
    ],
)
def test_curves_that_say_nothing_are_refused(b: Any, method: Any, text: str) -> None:
    with pytest.raises(BitdialError, match=text):
        bd_rate(*BASE, *b, method=method)


def test_curves_without_a_common_rate_are_refused() -> None:
    with pytest.raises(BitdialError, match=r"must overlap in rate, got 0.1211 bpp to 0.8209 bpp and 1 bpp to 2 bpp"):
        bd_psnr(*BASE, [1, 1.5, 2], [30, 31, 32])
    with pytest.raises(BitdialError, match="no two points of equal rate"):
        bd_psnr(*BASE, [0.2, 0.2, 0.4], [30, 31, 32])


GOOD = torch.zeros(1, 3, 200, 200)


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (GOOD, GOOD[0], r"\[N, C, H, W\] with values from 0 to 1, got torch.float32 \(3, 200, 200\)"),
        (GOOD.byte(), GOOD, "got torch.uint8"),
        ([0.0], GOOD, "got list"),
        (None, GOOD, "got NoneType"),
        (GOOD[:0], GOOD[:0], r"got torch.float32 \(0, 3, 200, 200\)"),
        (GOOD + 255, GOOD, "values from 0 to 1, got 255 to 255; clamp or scale"),
        (GOOD, GOOD - 0.1, "got -0.1 to -0.1"),
        (GOOD, GOOD * math.nan, "values from 0 to 1, got nan to nan"),
        (GOOD, GOOD + math.inf, "got inf to inf"),
        (GOOD, GOOD[:, :1], "must have one shape and device"),
        (GOOD, GOOD[..., 1:], "must have one shape and device"),
    ],
)
def test_what_are_no_pictures_is_refused(x: Any, y: Any, text: str) -> None:
    for metric in (psnr, ms_ssim):
        with pytest.raises(BitdialError, match=text):
            metric(x, y)


@pytest.mark.parametrize("scales", [0, 6, -1, 2.0, True, None, "3"])
def test_scales_are_one_to_five(scales: Any) -> None:
    with pytest.raises(BitdialError, match="scales must be a whole number from 1 to 5"):
        ms_ssim(GOOD, GOOD, scales=scales)
