"""Weight quantizers without learned scales: differentiable ``(weight, bits, per_channel) -> weight on the grid``.

Uniform grids, DoReFa's, and two ternary rules. Every ternary rule, also of `bitdial.numerics.learned_ternary`, is a
threshold and two scales: ``b`` above the threshold, ``-a`` below minus the threshold, 0 between. All is computed on
weights divided by their largest magnitude, so that sums neither overflow nor vanish, in float32 (float64 for float64
weights), and without a branch on a value: one compiled graph serves every weight and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bitdial.numerics.grid import snap_symmetric, snap_to_own_range
from bitdial.numerics.quantizers import Quantizer, register
from bitdial.numerics.reference import UNQUANTIZED

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
    """Weight of at least one value, divided by its largest magnitude, and that (1 for weights that are all zero).

    One magnitude per output channel, ``(out, 1, ...)``, or one, ``(1, 1, ...)``.
    """
    wide = widened(weight)
    size = wide.abs().amax(group_dims(weight, per_channel), keepdim=True)
    size = torch.where(size == 0, 1.0, size)
    return wide / size, size


def ternarized(
    wide: Tensor, threshold: Tensor | float, positive: Tensor, negative: Tensor, dtype: torch.dtype
) -> Tensor:
    """`positive` above `threshold`, ``-negative`` below ``-threshold``, 0 between (never -0), in `dtype`.

    The three are at least 0 and broadcast against `wide`; the scales are rounded to `dtype` first. What is not a number
    in a weight or a threshold stays visible as such.
    """
    rest = ((wide - wide) * threshold).to(dtype)  # 0, or NaN
    below = 0.0 - negative.to(dtype)
    return torch.where(wide > threshold, positive.to(dtype), torch.where(wide < -threshold, below, rest))


def least_squares_scale(unit: Tensor, threshold: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean magnitude of the weights above a threshold, or 0: for given signs the scale of the least squared error."""
    size = unit.abs()
    above = size > threshold
    total = torch.where(above, size, torch.zeros_like(size)).sum(dims, keepdim=True)
    return total / above.sum(dims, keepdim=True).clamp_min(1)


def _twn_fit(unit: Tensor, per_channel: bool) -> tuple[Tensor, Tensor]:
    """Threshold and scale of a weight that was divided by its largest magnitude."""
    dims = group_dims(unit, per_channel)
    threshold = TWN_THRESHOLD * unit.abs().mean(dims, keepdim=True)
    return threshold, least_squares_scale(unit, threshold, dims)


def twn_scale(weight: Tensor, per_channel: bool) -> Tensor:
    """Scale that TWN gives a weight of at least one value: ``(out, 1, ...)`` or ``(1, 1, ...)``."""
    unit, size = normalized(weight, per_channel)
    return _twn_fit(unit, per_channel)[1] * size


class StraightThrough(torch.autograd.Function):
    """`values(weight, bits, per_channel)`; the gradient passes unchanged (Bengio et al., arXiv 1308.3432)."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bits: Tensor, per_channel: bool, values: Callable[[Tensor, Tensor, bool], Tensor]
    ) -> Tensor:
        """The grid values, never the weight itself."""
        result = values(weight, bits, per_channel)
        return weight.view_as(weight) if result is weight else result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        """The gradient as it comes."""
        return gradients[0], None, None, None


def _twn_values(weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
    if weight.numel() == 0:
        return weight
    unit, size = normalized(weight, per_channel)
    threshold, fitted = _twn_fit(unit, per_channel)
    scale = fitted * size
    ternary = ternarized(unit, threshold, scale, scale, weight.dtype)
    return torch.where(bits >= UNQUANTIZED, weight, ternary)


def twn_weight(weight: Tensor, bits: Tensor, per_channel: bool = True) -> Tensor:
    """Ternary weight networks: ``a * sign(w)`` where ``|w| > .7 mean|w|``, 0 elsewhere; a = mean |w| over those above.

    Source: Li, Zhang and Liu, Ternary Weight Networks, arXiv 1605.04711, eq. 3-6. The gradient passes unchanged
    (straight-through), as there.

    Args:
        weight: ``(out, ...)``, floating dtype.
        bits: 0-dim float tensor; at 32 the weight comes back as it is, at any other width it is ternary.
        per_channel: threshold and scale per output channel instead of one for the tensor, as in the paper.
    """
    return StraightThrough.apply(weight, bits, per_channel, _twn_values)  # type: ignore[no-any-return]


def _absmean_values(weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
    if weight.numel() == 0:
        return weight
    unit, size = normalized(weight, per_channel)
    mean = unit.abs().mean(group_dims(weight, per_channel), keepdim=True)
    scale = mean * size
    # round(clip(w / mean, -1, 1)) is a threshold at mean / 2, ties to zero.
    ternary = ternarized(unit, mean / 2, scale, scale, weight.dtype)
    return torch.where(bits >= UNQUANTIZED, weight, ternary)


def absmean_weight(weight: Tensor, bits: Tensor, per_channel: bool = False) -> Tensor:
    """BitNet b1.58: ``a * clip(round(w / a), -1, 1)`` with a = mean|w|.

    Source: Ma et al., The Era of 1-bit LLMs, arXiv 2402.17764, eq. 1-3, without the epsilon under the fraction: weights
    of any size are treated alike, and zeros stay zeros. The gradient passes unchanged (straight-through).

    Args:
        weight: ``(out, ...)``, floating dtype.
        bits: 0-dim float tensor; at 32 the weight comes back as it is, at any other width it is ternary.
        per_channel: one mean per output channel instead of one for the tensor, as in the paper.
    """
    return StraightThrough.apply(weight, bits, per_channel, _absmean_values)  # type: ignore[no-any-return]


def magnitude(weight: Tensor, per_channel: bool) -> Tensor:
    """Largest absolute value: 0-dim float32, or ``(out, 1, ...)`` with one value per output channel (dimension 0)."""
    if weight.numel() == 0:
        return torch.zeros((), dtype=torch.float32, device=weight.device)
    dims, keepdim = group_dims(weight, per_channel), per_channel and weight.dim() >= 2
    return torch.maximum(weight.amax(dims, keepdim=keepdim), -weight.amin(dims, keepdim=keepdim)).float()


def _mean_magnitude(weight: Tensor, per_channel: bool) -> Tensor:
    size = weight.float().abs()
    return size.mean(group_dims(weight, True), keepdim=True) if per_channel and weight.dim() >= 2 else size.mean()


def uniform_values(weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
    """`uniform_weight` without autograd; the weight itself where nothing is to be done in eager mode."""
    return snap_to_own_range(weight, bits, lambda: magnitude(weight, per_channel), per_channel=per_channel)


def uniform_weight(weight: Tensor, bits: Tensor, per_channel: bool = True) -> Tensor:
    """Symmetric uniform grid from -max|w| to max|w| with ``round(2**bits)`` levels; the gradient passes unchanged.

    The range covers every weight, so the straight-through estimator (Bengio et al., arXiv 1308.3432) has nothing to
    clip. At 1 bit the values are ``max|w| * sign(w)``: never all zero.

    Args:
        weight: ``(out, ...)``, floating dtype.
        bits: 0-dim float tensor.
        per_channel: one range per output channel instead of one for the tensor.
    """
    return StraightThrough.apply(weight, bits, per_channel, uniform_values)  # type: ignore[no-any-return]


class _DorefaWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
        ctx.save_for_backward(weight, bits.clone())  # the dial may be turned before the backward pass
        ctx.per_channel = per_channel
        bent = weight.float().tanh()
        largest = magnitude(bent, per_channel).clamp_min(torch.finfo(torch.float32).tiny)
        unit = snap_symmetric(bent, largest, bits) / largest
        scaled = unit * _mean_magnitude(weight, per_channel)
        return torch.where(bits >= UNQUANTIZED, weight, scaled.to(weight.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        weight, bits = ctx.saved_tensors
        bent = weight.float().tanh()
        largest = magnitude(bent, ctx.per_channel).clamp_min(torch.finfo(torch.float32).tiny)
        slope = (1 - bent * bent) * (_mean_magnitude(weight, ctx.per_channel) / largest).detach()
        slope = torch.where(bits >= UNQUANTIZED, torch.ones_like(slope), slope)
        return (gradients[0] * slope).to(weight.dtype), None, None


def dorefa_weight(weight: Tensor, bits: Tensor, per_channel: bool = False) -> Tensor:
    """DoReFa's weights: ``E * Q(tanh(w) / max|tanh(w)|)``, Q the symmetric grid on [-1, 1], E = mean|w|.

    Source: Zhou et al., DoReFa-Net, arXiv 1606.06160, eq. 9; the factor E, which keeps the weights' size at every width
    and is DoReFa's own at 1 bit (eq. 7), as in Any-Precision DNNs (arXiv 1911.07346). The gradient is straight-through
    for Q, exact for tanh, and takes E and the maximum for constants. At 32 bits weights and gradient are untouched.

    Args:
        weight: ``(out, ...)``, floating dtype.
        bits: 0-dim float tensor.
        per_channel: take the maximum and E per output channel instead of over the tensor.
    """
    return _DorefaWeight.apply(weight, bits, per_channel)  # type: ignore[no-any-return]


register(Quantizer("uniform", uniform_weight, "channel", values=uniform_values))
register(Quantizer("dorefa", dorefa_weight, "tensor", activations="dorefa"))
register(Quantizer("twn", twn_weight, "channel", fixed_bits=TERNARY_BITS))
register(Quantizer("absmean", absmean_weight, "tensor", fixed_bits=TERNARY_BITS))
