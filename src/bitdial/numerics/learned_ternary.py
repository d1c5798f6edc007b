"""Ternary weights with learned scales: TTQ (two scales) and LSQ with three levels (one step).

The functions take the scales as arguments; the modules own them as parameters and belong to one layer each. A scale
counts by its magnitude: an optimizer that carries it past zero is reflected, not stuck.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.numerics.grid import is_off, may_read, row_kernels, unless_off
from bitdial.numerics.quantizers import Quantizer, register
from bitdial.numerics.reference import UNQUANTIZED
from bitdial.numerics.steps import Codes, direction, readable, stepped
from bitdial.numerics.weights import (
    TERNARY_BITS,
    aligned,
    group_dims,
    least_squares_scale,
    normalized,
    sum_type,
    ternarized,
    twn_scale,
    widened,
)

TTQ_THRESHOLD = 0.05
"""Threshold in units of max|w|, of Zhu et al."""


class _Ttq(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        positive: Tensor,
        negative: Tensor,
        bits: Tensor,
        share: float,
        per_channel: bool,
        factor: float,
    ) -> Tensor:
        ctx.share, ctx.per_channel, ctx.factor = share, per_channel, factor
        sizes = None
        if is_off(weight, bits):
            values = weight.view_as(weight)
        else:
            ternary, sizes = _ttq_ternary(weight, positive, negative, share, per_channel)
            values = unless_off(weight, bits, lambda: ternary)
        ctx.save_for_backward(weight, positive, negative, bits.clone(), sizes)  # the dial may be turned before backward
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        weight, positive, negative, bits, sizes = ctx.saved_tensors
        gradient: Tensor = gradients[0]
        if sizes is None:
            return gradient, torch.zeros_like(positive), torch.zeros_like(negative), None, None, None, None
        scales = positive, negative
        native = None if torch.is_grad_enabled() else row_kernels(weight, gradient)
        if native is not None and all(map(may_read, scales)):
            found = native.ternarize_gradient(weight, gradient, sizes, ctx.share, scales, ctx.factor)
        else:
            found = _ttq_gradient(weight, gradient, sizes, scales, bits, ctx.share, ctx.per_channel, ctx.factor)
        return *found, None, None, None, None


def _ttq_ternary(
    weight: Tensor, positive: Tensor, negative: Tensor, share: float, per_channel: bool
) -> tuple[Tensor, Tensor]:
    """The ternary weight, and the largest magnitude of each group, ``(groups,)``."""
    native = row_kernels(weight)
    if native is not None and may_read(positive) and may_read(negative):
        return native.ternarize(weight, positive.numel(), share, (positive, negative))
    unit, size = normalized(weight, per_channel)
    above, below = aligned(positive, weight).abs(), aligned(negative, weight).abs()
    return ternarized(unit, share, above, below, weight.dtype), size.flatten()


def _ttq_gradient(
    weight: Tensor,
    gradient: Tensor,
    sizes: Tensor,
    scales: tuple[Tensor, Tensor],
    bits: Tensor,
    share: float,
    per_channel: bool,
    factor: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by the weight and by either scale."""
    unit, wide = widened(weight) / aligned(sizes, weight), widened(gradient)
    above, below = unit > share, unit < -share
    dims, ternary = group_dims(weight, per_channel), bits < UNQUANTIZED
    ups, downs = (
        (change.sum(dims, dtype=sum_type(wide)).to(wide.dtype).view_as(scale) * direction(scale) * factor).to(
            scale.dtype
        )
        for change, scale in (
            (torch.where(above & ternary, wide, 0.0), scales[0]),
            (torch.where(below & ternary, -wide, 0.0), scales[1]),
        )
    )
    up, down = (aligned(scale, weight).abs() for scale in scales)
    slope = torch.where(above, up, torch.where(below, down, 1.0))
    return torch.where(ternary, wide * slope, wide).to(weight.dtype), ups, downs


def ttq_values(
    weight: Tensor,
    positive: Tensor,
    negative: Tensor,
    bits: Tensor,
    per_channel: bool = False,
    *,
    threshold: float = TTQ_THRESHOLD,
    scale_gradient: float = 1.0,
) -> Tensor:
    """Trained ternary quantization: Wp where ``w > t max|w|``, -Wn where ``w < -t max|w|``, 0 between.

    Source: Zhu et al., Trained Ternary Quantization, arXiv 1612.01064, eq. 6-9. Gradients, with g that of the output:
    Wp gets the sum of g over the weights above the threshold, Wn minus the sum over those below (the derivative
    of -Wn), and a weight gets ``Wp g``, ``Wn g`` or g, as it is above, below or between.

    Args:
        weight: ``(out, ...)``, floating dtype.
        positive, negative: Wp and Wn, ``(out,)`` if `per_channel`, else ``(1,)``; their magnitudes count.
        bits: 0-dim float tensor; at 32 the weight comes back as it is, at any other width it is ternary.
        per_channel: threshold and scales per output channel instead of one pair for the tensor, as in the paper.
        threshold: t.
        scale_gradient: what the gradients of Wp and Wn are multiplied by; 1 is the paper's rule.
    """
    return _Ttq.apply(  # type: ignore[no-any-return]
        weight, positive, negative, bits, threshold, per_channel, scale_gradient
    )


_THREE = Codes(-1.0, 1.0, 0.0, -1.0, 1.0)


def learned_step_values(weight: Tensor, step: Tensor, bits: Tensor) -> Tensor:
    """LSQ with three levels: ``s * round(clip(w / s, -1, 1))``, the step s learned.

    Source: Esser et al., Learned Step Size Quantization, arXiv 1902.08153, eq. 1-3 and 5, with Qn = Qp = 1. A weight
    gets its gradient where ``|w| < s`` and none elsewhere. The step gets, from each weight, ``round(w / s) - w / s``,
    or the sign of w where it was clipped, times ``1 / sqrt(N Qp)``, N the number of weights that share the step.

    Args:
        weight: ``(out, ...)``, floating dtype.
        step: ``(out,)`` or ``(1,)``; its magnitude counts.
        bits: 0-dim float tensor; at 32 the weight comes back as it is, at any other width it is ternary.
    """
    factor = math.sqrt(max(step.numel(), 1) / max(weight.numel(), 1))
    return stepped(weight, step, _THREE, readable(weight, bits), strict=True, factor=factor)


class LearnedWeight(nn.Module):
    """A quantizer with parameters of its own, for one layer: ``(weight, bits) -> weight on the grid``.

    Its parameters have one dimension (FSDP takes none of zero) and the dtype of the weight.

    Args:
        weight: what the scales fit to begin with.
        per_channel: scales per output channel instead of one set for the tensor.
    """

    def __init__(self, weight: Tensor, per_channel: bool = False) -> None:
        super().__init__()
        self.per_channel = per_channel
        for name, value in self.initial(weight).items():
            self.register_parameter(name, nn.Parameter(value))

    def reset(self, weight: Tensor) -> None:
        """Set the scales to what fits `weight` as it is now, in place."""
        with torch.no_grad():
            for name, value in self.initial(weight).items():
                getattr(self, name).copy_(value)

    def initial(self, weight: Tensor) -> dict[str, Tensor]:
        """The scales that fit a weight, by the names of the parameters."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """How many scales of each kind."""
        return ", ".join(f"{name}: {parameter.numel()}" for name, parameter in self.named_parameters())


class TrainedTernaryWeight(LearnedWeight):
    """TTQ for one layer; see `ttq_values`.

    The gradients of both scales are divided by N, the number of weights that share a pair: means where the paper has
    sums. LSQ divides by sqrt(N) (Esser et al., arXiv 1902.08153, section 2.2), which is how a sum of N gradients grows
    when they are unrelated. Those of TTQ are not: Wp - Wn shifts all weights of a filter together, and behind a ReLU
    their gradients largely agree, so that the sum grows like N. A mean is never above the root mean square of the
    weights' own gradients; so at one learning rate for both, scales do not run away from weights, whatever the layer.

    The scales begin with the mean magnitude of the weights above and of those below the threshold, which for those
    signs have the smallest squared error. `threshold` is t, in units of max|w|.
    """

    positive: Tensor
    negative: Tensor

    def __init__(self, weight: Tensor, per_channel: bool = False, threshold: float = TTQ_THRESHOLD) -> None:
        self.threshold = threshold
        super().__init__(weight, per_channel)

    def initial(self, weight: Tensor) -> dict[str, Tensor]:
        """Least-squares scales of either sign; a side without weights takes that of the other."""
        if weight.numel() == 0:
            start = _start_of_zeros(weight, self.per_channel)
            return {"positive": start, "negative": start.clone()}
        unit, size = normalized(weight.detach(), self.per_channel)
        dims = group_dims(weight, self.per_channel)
        share = torch.full_like(size, self.threshold)
        sides = [least_squares_scale(side.clamp_min(0), share, dims) * size for side in (unit, -unit)]
        values = []
        for mine, other in (sides, sides[::-1]):
            filled = torch.where(mine == 0, other, mine).flatten().to(weight.dtype)
            values.append(torch.where(filled == 0, _start_of_zeros(weight, self.per_channel), filled))
        return {"positive": values[0], "negative": values[1]}

    def forward(self, weight: Tensor, bits: Tensor) -> Tensor:
        """The ternary weight; at 32 bits the weight itself."""
        sharing = max(weight.numel() // max(self.positive.numel(), 1), 1)
        return ttq_values(
            weight,
            self.positive,
            self.negative,
            bits,
            self.per_channel,
            threshold=self.threshold,
            scale_gradient=1 / sharing,
        )


class LearnedStepWeight(LearnedWeight):
    """LSQ with three levels for one layer; see `learned_step_values`.

    The step begins as the weight's TWN scale. The paper's ``2 mean|w| / sqrt(Qp)`` is meant for more levels: with three
    it sends 58% of normal weights to zero (this one 45%), and all of those that have one magnitude.
    """

    step: Tensor

    def __init__(self, weight: Tensor, per_channel: bool = True) -> None:
        super().__init__(weight, per_channel)

    def initial(self, weight: Tensor) -> dict[str, Tensor]:
        """The scale that TWN gives."""
        start = _start_of_zeros(weight, self.per_channel)
        if weight.numel() == 0:
            return {"step": start}
        scale = twn_scale(weight.detach(), self.per_channel).flatten().to(weight.dtype)
        return {"step": torch.where(scale == 0, start, scale)}

    def forward(self, weight: Tensor, bits: Tensor) -> Tensor:
        """The ternary weight; at 32 bits the weight itself."""
        return learned_step_values(weight, self.step, bits)


def _start_of_zeros(weight: Tensor, per_channel: bool) -> Tensor:
    """Scales for weights that are all zero: ``1 / sqrt(fan_in)``, the size that a fresh layer's weights have."""
    groups = weight.shape[0] if per_channel and weight.dim() >= 2 else 1
    fan_in = max(math.prod(weight.shape[1:]), 1)
    return torch.full((groups,), 1 / math.sqrt(fan_in), dtype=weight.dtype, device=weight.device)


def ttq_weight(weight: Tensor, bits: Tensor, per_channel: bool = False) -> Tensor:
    """TTQ with the scales that a new layer begins with; a layer learns its own (`TrainedTernaryWeight`)."""
    scales = TrainedTernaryWeight(weight, per_channel).requires_grad_(False)
    return scales(weight, bits)  # type: ignore[no-any-return]


def ternary_lsq_weight(weight: Tensor, bits: Tensor, per_channel: bool = True) -> Tensor:
    """Ternary LSQ with the step that a new layer begins with; a layer learns its own (`LearnedStepWeight`)."""
    scales = LearnedStepWeight(weight, per_channel).requires_grad_(False)
    return scales(weight, bits)  # type: ignore[no-any-return]


register(Quantizer("ttq", ttq_weight, "tensor", 2, TERNARY_BITS, TrainedTernaryWeight))
register(Quantizer("ternary_lsq", ternary_lsq_weight, "channel", 1, TERNARY_BITS, LearnedStepWeight))
