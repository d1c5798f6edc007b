"""Grids whose step is given, one for each output channel or one for all, and the gradients that a step is learned from.

With ``v = w / s``

    code  = clip(round(v - half) + half, lowest, highest)                 half is 1/2 for a grid without zero, else 0
    value = s * code
    by w:   the value's gradient between the edges of the grid, 0 outside
    by s:   the sum of the gradients, each times ``a * code - b * v`` between the edges, times the code outside

a = b = 1 is the rule of LSQ (Esser et al., Learned Step Size Quantization, arXiv 1902.08153, eq. 2 and 3). The plain
forms are what a compiler traces and what other devices run; on a CPU in eager mode native kernels take each in one pass
over memory and give the same values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitdial.numerics.grid import may_read, row_kernels
from bitdial.numerics.weights import aligned, group_dims, sum_type, widened

_TINY = torch.finfo(torch.float32).tiny


class Codes(NamedTuple):
    """The codes of a grid and the rule of its gradients; numbers, or 0-dim tensors of widths that may not be read."""

    lowest: Any
    highest: Any
    half: Any
    edge_low: Any
    edge_high: Any
    by_code: Any = 1.0
    by_position: Any = 1.0


def to_steps(weight: Tensor, step: Tensor, codes: Codes) -> Tensor:
    """The nearest values of grids, ties to even, never -0; no autograd.

    Args:
        weight: ``(out, ...)`` of at least one value, floating dtype.
        step: one value, or one for each entry of the first dimension; s is its magnitude, and zero brings all to zero.
        codes: the grid.
    """
    native = row_kernels(weight) if _are_numbers(codes) and may_read(step) else None
    if native is not None:
        return native.steps(weight, step.contiguous(), codes)
    size = aligned(step.flatten(), weight).abs()
    return (_code(_position(weight, size), codes) * size + 0.0).to(weight.dtype)


def steps_gradient(
    weight: Tensor, gradient: Tensor, step: Tensor, codes: Codes, *, strict: bool = True, scale: Any = 1.0
) -> tuple[Tensor, Tensor]:
    """Gradients of `to_steps` by the weight and by the step, given that of the values.

    Args:
        weight, step, codes: as in `to_steps`.
        gradient: in the shape of `weight`.
        strict: whether a weight just at an edge counts as outside.
        scale: what the gradient by the step is multiplied with.

    Returns:
        The first in the shape and dtype of `weight`; the second in those of `step`.
    """
    numbers = _are_numbers((*codes, scale)) and may_read(step) and not torch.is_grad_enabled()
    native = row_kernels(weight, gradient) if numbers else None
    if native is not None:
        return native.steps_gradient(weight, gradient, step.contiguous(), codes, strict, scale)
    wide, position = widened(gradient), _position(weight, aligned(step.flatten(), weight).abs())
    low, high, code = codes.edge_low, codes.edge_high, _code(position, codes)
    inside = (position > low) & (position < high) if strict else (position >= low) & (position <= high)
    change = wide * torch.where(inside, code * codes.by_code - position * codes.by_position, code)
    total = change.sum(group_dims(weight, step.numel() > 1), dtype=sum_type(change)).to(change.dtype)
    by_step = total.view_as(step) * direction(step) * scale
    return torch.where(inside, wide, 0.0).to(weight.dtype), by_step.to(step.dtype)


def direction(scale: Tensor) -> Tensor:
    """Derivative of the magnitude: -1 below zero, 1 from zero up (a scale at zero must be able to leave it)."""
    return torch.where(scale < 0, -1.0, 1.0)


def _position(weight: Tensor, size: Tensor) -> Tensor:
    """Weights in units of their step; those of a step of zero lie beyond every edge, but for zeros."""
    return widened(weight) / torch.where(size == 0, _TINY, size)


def _code(position: Tensor, codes: Codes) -> Tensor:
    return torch.clamp((position - codes.half).round() + codes.half, codes.lowest, codes.highest)


def _are_numbers(values: tuple[Any, ...]) -> bool:
    return not any(isinstance(value, Tensor) for value in values)
