"""Weight quantizers without learned scales: differentiable ``(weight, bits, per_channel) -> weight on the grid``.

Uniform grids, DoReFa's, and two ternary rules. Every ternary rule, also of `bitdial.numerics.learned_ternary`, is a
threshold and two scales: ``b`` above the threshold, ``-a`` below minus the threshold, 0 between. All is computed on
weights divided by their largest magnitude, so that sums neither overflow nor vanish, in float32 (float64 for float64
weights), and without a branch on a value: one compiled graph serves every weight and width. Sums are taken in float64,
so that their order does not show. On a CPU in eager mode native kernels give the same values in fewer passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bitdial.numerics.grid import (
    is_off,
    may_read,
    row_count,
    row_kernels,
    snap_symmetric,
    snap_to_own_range,
    unless_off,
)
from bitdial.numerics.quantizers import Quantizer, register
from bitdial.numerics.reference import UNQUANTIZED, level_count

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


def aligned(scale: Tensor, weight: Tensor) -> Tensor:
    """Scales ``(groups,)`` in the shape that broadcasts against the weight, in the dtype that is computed in."""
    return widened(scale).view(-1, *(1 for _ in weight.shape[1:]))


def sum_type(x: Tensor) -> torch.dtype:
    """The dtype in which sums of `x` are taken."""
    return x.dtype if x.device.type == "mps" else torch.float64  # Apple's GPUs have none


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
    total = torch.where(above, size, torch.zeros_like(size)).sum(dims, keepdim=True, dtype=sum_type(size))
    return (total / above.sum(dims, keepdim=True).clamp_min(1)).to(unit.dtype)


def _twn_fit(unit: Tensor, per_channel: bool) -> tuple[Tensor, Tensor]:
    """Threshold and scale of a weight that was divided by its largest magnitude."""
    threshold = TWN_THRESHOLD * mean_magnitude(unit, per_channel)
    return threshold, least_squares_scale(unit, threshold, group_dims(unit, per_channel))


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


def twn_values(weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
    """`twn_weight` without autograd; the weight itself where nothing is to be done in eager mode."""

    def ternary() -> Tensor:
        native = row_kernels(weight)
        if native is not None:
            return native.ternarize(weight, row_count(weight, per_channel), TWN_THRESHOLD, "above")[0]
        unit, size = normalized(weight, per_channel)
        threshold, fitted = _twn_fit(unit, per_channel)
        scale = fitted * size
        return ternarized(unit, threshold, scale, scale, weight.dtype)

    return unless_off(weight, bits, ternary) if weight.numel() else weight


def twn_weight(weight: Tensor, bits: Tensor, per_channel: bool = True) -> Tensor:
    """Ternary weight networks: ``a * sign(w)`` where ``|w| > .7 mean|w|``, 0 elsewhere; a = mean |w| over those above.

    Source: Li, Zhang and Liu, Ternary Weight Networks, arXiv 1605.04711, eq. 3-6. The gradient passes unchanged
    (straight-through), as there.

    Args:
        weight: ``(out, ...)``, floating dtype.
        bits: 0-dim float tensor; at 32 the weight comes back as it is, at any other width it is ternary.
        per_channel: threshold and scale per output channel instead of one for the tensor, as in the paper.
    """
    return StraightThrough.apply(weight, bits, per_channel, twn_values)  # type: ignore[no-any-return]


def absmean_values(weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
    """`absmean_weight` without autograd; the weight itself where nothing is to be done in eager mode."""

    def ternary() -> Tensor:
        # round(clip(w / mean, -1, 1)) is a threshold at mean / 2, ties to zero.
        native = row_kernels(weight)
        if native is not None:
            return native.ternarize(weight, row_count(weight, per_channel), 0.5, "mean")[0]
        unit, size = normalized(weight, per_channel)
        mean = mean_magnitude(unit, per_channel)
        scale = mean * size
        return ternarized(unit, mean / 2, scale, scale, weight.dtype)

    return unless_off(weight, bits, ternary) if weight.numel() else weight


def absmean_weight(weight: Tensor, bits: Tensor, per_channel: bool = False) -> Tensor:
    """BitNet b1.58: ``a * clip(round(w / a), -1, 1)`` with a = mean|w|.

    Source: Ma et al., The Era of 1-bit LLMs, arXiv 2402.17764, eq. 1-3, without the epsilon under the fraction: weights
    of any size are treated alike, and zeros stay zeros. The gradient passes unchanged (straight-through).

    Args:
        weight: ``(out, ...)``, floating dtype.
        bits: 0-dim float tensor; at 32 the weight comes back as it is, at any other width it is ternary.
        per_channel: one mean per output channel instead of one for the tensor, as in the paper.
    """
    return StraightThrough.apply(weight, bits, per_channel, absmean_values)  # type: ignore[no-any-return]


def magnitude(weight: Tensor, per_channel: bool) -> Tensor:
    """Largest absolute value: 0-dim float32, or ``(out, 1, ...)`` with one value per output channel (dimension 0)."""
    if weight.numel() == 0:
        return torch.zeros((), dtype=torch.float32, device=weight.device)
    dims, keepdim = group_dims(weight, per_channel), per_channel and weight.dim() >= 2
    return torch.maximum(weight.amax(dims, keepdim=keepdim), -weight.amin(dims, keepdim=keepdim)).float()


def mean_magnitude(wide: Tensor, per_channel: bool) -> Tensor:
    """Mean absolute value: ``(out, 1, ...)`` with one value per output channel, or ``(1, 1, ...)``; NaN for none."""
    return wide.abs().mean(group_dims(wide, per_channel), keepdim=True, dtype=sum_type(wide)).to(wide.dtype)


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


_TANH_OVER = (1.3419986e-8, 2.0661442e-5, 3.4990097e-3, 1.3383993e-1, 1.0)
_TANH_UNDER = (7.8048144e-7, 3.2910587e-4, 2.5890261e-2, 4.6717314e-1, 1.0)


def bent(x: Tensor) -> Tensor:
    """Hyperbolic tangent of float32 values, to some units in the last place, as the native kernels compute it.

    On a CPU x times a quotient of two polynomials of x**2 that was fitted to it on [-9, 9], beyond which float32 has 1:
    PyTorch's own takes ten times as long.
    """
    if x.device.type != "cpu":
        return x.tanh()
    x = x.clamp(-9.0, 9.0)
    square = x * x
    over, under = square * _TANH_OVER[0], square * _TANH_UNDER[0]
    for above, below in zip(_TANH_OVER[1:-1], _TANH_UNDER[1:-1], strict=True):
        over, under = (over + above) * square, (under + below) * square
    return (x * (over + 1.0) / (under + 1.0)).clamp(-1.0, 1.0)


class _DorefaWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
        values, slopes = (weight, None) if is_off(weight, bits) else _dorefa_values(weight, bits, per_channel)
        ctx.save_for_backward(weight, bits.clone(), slopes)  # the dial may be turned before the backward pass
        return weight.view_as(weight) if values is weight else values

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        weight, bits, slopes = ctx.saved_tensors
        gradient: Tensor = gradients[0]
        if slopes is None:
            return gradient, None, None
        native = None if torch.is_grad_enabled() else row_kernels(weight, gradient)
        if native is not None:
            return native.dorefa_gradient(weight, gradient, slopes), None, None
        curve = bent(weight.float())
        slope = (1 - curve * curve) * aligned(slopes, weight)
        if not may_read(weight):
            slope = torch.where(bits >= UNQUANTIZED, torch.ones_like(slope), slope)
        return (gradient * slope).to(weight.dtype), None, None


def _dorefa_values(weight: Tensor, bits: Tensor, per_channel: bool) -> tuple[Tensor, Tensor]:
    """The values, and the mean magnitude over the largest tanh, ``(out,)`` or ``(1,)``."""
    native = row_kernels(weight)
    if native is not None:
        last = level_count(bits.item()) - 1
        return native.dorefa(weight, row_count(weight, per_channel), last, last / 2 % 1.0)
    wide = weight.float()
    mean = mean_magnitude(wide, per_channel)
    # Of the largest magnitude, which is the largest tanh and saves a pass.
    largest = bent(magnitude(wide, per_channel)).clamp_min(torch.finfo(torch.float32).tiny).view_as(mean)
    scaled = snap_symmetric(bent(wide), largest, bits) / largest * mean
    return unless_off(weight, bits, lambda: scaled.to(weight.dtype)), (mean / largest).flatten()


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
register(Quantizer("twn", twn_weight, "channel", fixed_bits=TERNARY_BITS, values=twn_values))
register(Quantizer("absmean", absmean_weight, "tensor", fixed_bits=TERNARY_BITS, values=absmean_values))
