"""How probable a whole number is under a generalised normal distribution: the rate that a codec is trained on.

Exponent 1.5 lies between Laplace (1) and normal (2): Zhang et al., "Generalized Gaussian Model for Learned Image
Compression", IEEE TIP 2025.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from bitdial.compression.coding.arrays import check_floating
from bitdial.errors import BitdialError

EXPONENT = 1.5
MIN_SCALE = 0.11999999731779099
""".12 in float32, so that every dtype has the same. Below it a symbol costs next to nothing (1e-4 bit)."""
MIN_LIKELIHOOD = 1e-9
"""Keeps the rate of a symbol finite, at 30 bits, and its gradient alive."""


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x < bound)
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (below,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient.masked_fill(below & (gradient > 0), 0), None


class _Cdf(torch.autograd.Function):
    """The derivative of torch.special.gammaincc in its second argument is not implemented; here it is a density."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        power = x.abs() ** EXPONENT
        tail = torch.special.gammaincc(torch.full_like(power, 1 / EXPONENT), power) / 2
        return torch.where(x > 0, 1 - tail, tail)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient * torch.exp(-(x.abs() ** EXPONENT)) * (EXPONENT / (2 * math.gamma(1 / EXPONENT)))


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """max(x, bound), whose gradient also passes below the bound where a step against it would raise x.

    Plain clamping stops all gradients there, and a value that once fell below would never return. NaN stays NaN.
    """
    check_floating("x", x)
    if isinstance(bound, bool) or not isinstance(bound, int | float) or math.isnan(bound):
        raise BitdialError(f"bound must be a number, got {bound!r}")
    return cast(Tensor, _LowerBound.apply(x, float(bound)))


def cdf(x: Tensor) -> Tensor:
    """The distribution function F(x) = (1 + sign(x) P(1/1.5, |x|^1.5)) / 2 of scale 1, P the incomplete gamma function.

    Left of zero it is computed as a tail, without cancellation, so that small values are accurate in every digit.
    """
    check_floating("x", x)
    return cast(Tensor, _Cdf.apply(x.float() if x.element_size() < 4 else x))


def likelihood(values: Tensor, scale: Tensor) -> Tensor:
    """The probability of the bin one wide around each value: F((v + .5) / a) - F((v - .5) / a).

    Args:
        values: residuals, rounded or with uniform noise; any shape that broadcasts with `scale`.
        scale: the parameter a of the distribution (.85935 a is its standard deviation), not below `MIN_SCALE`.

    Returns:
        In the common dtype, of at least 32 bits (a half-precision float has no 1e-9); not below `MIN_LIKELIHOOD`. Both
        bounds are `lower_bound`. What is NaN stays NaN.

    Raises:
        BitdialError: no floating-point tensors, or shapes that do not go together.
    """
    check_floating("values", values)
    check_floating("scale", scale)
    try:
        torch.broadcast_shapes(values.shape, scale.shape)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise BitdialError(
            f"values and scale must broadcast, got shapes {tuple(values.shape)} and {tuple(scale.shape)}"
        ) from error
    dtype = torch.promote_types(torch.promote_types(values.dtype, scale.dtype), torch.float32)
    scale = lower_bound(scale.to(dtype), MIN_SCALE)
    distance = values.to(dtype).abs()  # the distribution is symmetric: both edges on the side where F is small
    return lower_bound(cdf((0.5 - distance) / scale) - cdf((-0.5 - distance) / scale), MIN_LIKELIHOOD)
