"""Ternary weights without learned scales: TWN and the absmean rule of BitNet b1.58, and what all four rules share.

Every rule is a threshold and two scales: ``b`` above the threshold, ``-a`` below minus the threshold, 0 between. All is
computed on weights divided by their largest magnitude, so that sums neither overflow nor vanish, in float32 (float64
for float64 weights), and without a branch on a value: one compiled graph serves every weight and width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bitdial.numerics.widths import UNQUANTIZED

TERNARY_BITS = math.log2(3)
"""Width of a weight with three values: 1.585 bits."""

TWN_THRESHOLD = 0.7
"""Threshold in units of mean|w|, of Li et al. (their approximation for uniform and normal weights)."""


def group_dims(weight: Tensor, per_channel: bool) -> tuple[int, ...]:
    """Dimensions over which the weights of one scale lie: all, or all but the first (a vector has no channels)."""
    return tuple(range(1 if per_channel and weight.dim() >= 2 else 0, weight.dim()))


def widened(weight: Tensor) -> Tensor:
    """The weight in the dtype that it is computed in: float32, or float64 as it is."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def normalized(weight: Tensor, per_channel: bool) -> tuple[Tensor, Tensor]:
    """Weight divided by its largest magnitude, and that magnitude (1 for weights that are all zero).

    Args:
        weight: ``(out, ...)``, at least one value.
        per_channel: one magnitude per output channel, ``(out, 1, ...)``, instead of one, ``(1, 1, ...)``.
    """
    wide = widened(weight)
    size = wide.abs().amax(group_dims(weight, per_channel), keepdim=True)
    size = torch.where(size == 0, 1.0, size)
    return wide / size, size


def ternarized(
    wide: Tensor, threshold: Tensor | float, positive: Tensor, negative: Tensor, dtype: torch.dtype
) -> Tensor:
    """`positive` above `threshold`, ``-negative`` below ``-threshold``, 0 between (never -0), in `dtype`.

    What is not a number in a weight or a threshold stays visible as such.

    Args:
        wide: any shape.
        threshold, positive, negative: what broadcasts against it, at least 0.
        dtype: of the result; the scales are rounded to it first.
    """
    rest = ((wide - wide) * threshold).to(dtype)  # 0, or NaN
    below = 0.0 - negative.to(dtype)
    return torch.where(wide > threshold, positive.to(dtype), torch.where(wide < -threshold, below, rest))


def least_squares_scale(unit: Tensor, threshold: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean magnitude of the weights above a threshold: for given signs the scale with the smallest squared error.

    0 where none is above.
    """
    size = unit.abs()
    above = size > threshold
    total = torch.where(above, size, torch.zeros_like(size)).sum(dims, keepdim=True)
    return total / above.sum(dims, keepdim=True).clamp_min(1)


def twn_scale(weight: Tensor, per_channel: bool) -> Tensor:
    """Scale that TWN gives a weight of at least one value: ``(out, 1, ...)`` or ``(1, 1, ...)``."""
    unit, size = normalized(weight, per_channel)
    dims = group_dims(weight, per_channel)
    threshold = TWN_THRESHOLD * unit.abs().mean(dims, keepdim=True)
    return least_squares_scale(unit, threshold, dims) * size


class _TwnWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
        if weight.numel() == 0:
            return weight.view_as(weight)
        unit, size = normalized(weight, per_channel)
        dims = group_dims(weight, per_channel)
        threshold = TWN_THRESHOLD * unit.abs().mean(dims, keepdim=True)
        scale = least_squares_scale(unit, threshold, dims) * size
        ternary = ternarized(unit, threshold, scale, scale, weight.dtype)
        return torch.where(bits >= UNQUANTIZED, weight, ternary)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


def twn_weight(weight: Tensor, bits: Tensor, per_channel: bool = True) -> Tensor:
    """Ternary weight networks: ``a * sign(w)`` where ``|w| > .7 mean|w|``, 0 elsewhere; a = mean |w| over those above.

    Source: Li, Zhang and Liu, Ternary Weight Networks, arXiv 1605.04711, eq. 3-6. The gradient passes unchanged
    (straight-through), as there.

    Args:
        weight: ``(out, ...)``, floating dtype.
        bits: 0-dim float tensor; at 32 the weight comes back as it is, at any other width it is ternary.
        per_channel: threshold and scale per output channel instead of one for the tensor, as in the paper.
    """
    return _TwnWeight.apply(weight, bits, per_channel)  # type: ignore[no-any-return]


class _AbsmeanWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
        if weight.numel() == 0:
            return weight.view_as(weight)
        unit, size = normalized(weight, per_channel)
        mean = unit.abs().mean(group_dims(weight, per_channel), keepdim=True)
        scale = mean * size
        # round(clip(w / mean, -1, 1)) is a threshold at mean / 2, ties to zero.
        ternary = ternarized(unit, mean / 2, scale, scale, weight.dtype)
        return torch.where(bits >= UNQUANTIZED, weight, ternary)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


def absmean_weight(weight: Tensor, bits: Tensor, per_channel: bool = False) -> Tensor:
    """BitNet b1.58: ``a * clip(round(w / a), -1, 1)`` with a = mean|w|.

    Source: Ma et al., The Era of 1-bit LLMs, arXiv 2402.17764, eq. 1-3, without the epsilon under the fraction: weights
    of any size are treated alike, and zeros stay zeros. The gradient passes unchanged (straight-through).

    Args:
        weight: ``(out, ...)``, floating dtype.
        bits: 0-dim float tensor; at 32 the weight comes back as it is, at any other width it is ternary.
        per_channel: one mean per output channel instead of one for the tensor, as in the paper.
    """
    return _AbsmeanWeight.apply(weight, bits, per_channel)  # type: ignore[no-any-return]
