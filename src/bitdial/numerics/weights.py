"""Weight quantizers: differentiable functions ``(weight, bits, per_channel) -> weight on the grid``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitdial.numerics.grid import snap_symmetric, snap_to_own_range
from bitdial.numerics.widths import UNQUANTIZED


def magnitude(weight: Tensor, per_channel: bool) -> Tensor:
    """Largest absolute value: 0-dim float32, or ``(out, 1, ...)`` with one value per output channel (dimension 0)."""
    if weight.numel() == 0:
        return torch.zeros((), dtype=torch.float32, device=weight.device)
    if not per_channel or weight.dim() < 2:
        return torch.maximum(weight.amax(), -weight.amin()).float()
    dims = tuple(range(1, weight.dim()))
    return torch.maximum(weight.amax(dims, keepdim=True), -weight.amin(dims, keepdim=True)).float()


def _mean_magnitude(weight: Tensor, per_channel: bool) -> Tensor:
    if not per_channel or weight.dim() < 2:
        return weight.float().abs().mean()
    return weight.float().abs().mean(tuple(range(1, weight.dim())), keepdim=True)


def uniform_values(weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
    """`uniform_weight` without autograd; the weight itself where nothing is to be done in eager mode."""
    return snap_to_own_range(weight, bits, lambda: magnitude(weight, per_channel), per_channel=per_channel)


class _UniformWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
        snapped = uniform_values(weight, bits, per_channel)
        return snapped.view_as(weight) if snapped is weight else snapped

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


def uniform_weight(weight: Tensor, bits: Tensor, per_channel: bool = True) -> Tensor:
    """Symmetric uniform grid from -max|w| to max|w| with ``round(2**bits)`` levels; the gradient passes unchanged.

    The range covers every weight, so the straight-through estimator (Bengio et al., arXiv 1308.3432) has nothing to
    clip. At 1 bit the values are ``max|w| * sign(w)``: never all zero.

    Args:
        weight: ``(out, ...)``, floating dtype.
        bits: 0-dim float tensor.
        per_channel: one range per output channel instead of one for the tensor.
    """
    return _UniformWeight.apply(weight, bits, per_channel)  # type: ignore[no-any-return]


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
        slope = (1 - bent * bent) * (_mean_magnitude(weight, ctx.per_channel) / largest)
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
