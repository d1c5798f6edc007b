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

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from bitdial.numerics.grid import may_read, row_kernels
from bitdial.numerics.reference import UNQUANTIZED
from bitdial.numerics.weights import aligned, group_dims, sum_type, widened

_TINY = torch.finfo(torch.float32).tiny


Number: TypeAlias = float | Tensor
"""A number where it can be read for free, else a 0-dim tensor, which a compiled graph takes for an input."""


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


class _Stepped(torch.autograd.Function):
    """`stepped`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        learned: Tensor,
        unit: Number,
        codes: Codes,
        bits: Number,
        strict: bool,
        factor: Number,
    ) -> Tensor:
        ctx.strict = strict
        rest = (*codes, bits, factor, unit)
        ctx.kept = [None if isinstance(value, Tensor) else value for value in rest]
        # Copies: the dial may be turned before the backward pass.
        ctx.save_for_backward(x, learned, *(value.clone() for value in rest if isinstance(value, Tensor)))
        if x.numel() == 0 or (not isinstance(bits, Tensor) and bits >= UNQUANTIZED):
            return x.view_as(x)
        values = to_steps(x, _step(learned, unit), codes)
        return torch.where(bits >= UNQUANTIZED, x, values) if isinstance(bits, Tensor) else values

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        x, learned, *tensors = ctx.saved_tensors
        gradient, given = gradients[0], iter(tensors)
        *codes, bits, factor, unit = (next(given) if value is None else value for value in ctx.kept)
        off = bits >= UNQUANTIZED
        if off is True or x.numel() == 0:
            return gradient, torch.zeros_like(learned), *(None,) * 5
        step, scale = _step(learned, unit), factor * unit
        by_x, by_step = steps_gradient(x, gradient, step, Codes(*codes), strict=ctx.strict, scale=scale)
        by_learned = by_step.to(learned.dtype)
        if off is not False:
            by_x, by_learned = torch.where(off, gradient, by_x), torch.where(off, 0.0, by_learned)
        return by_x, by_learned, *(None,) * 5


def stepped(
    x: Tensor,
    learned: Tensor,
    codes: Codes,
    bits: Number,
    *,
    unit: Number = 1.0,
    strict: bool = False,
    factor: Number = 1.0,
) -> Tensor:
    """`to_steps`, differentiable in both.

    Args:
        x: any shape, floating dtype.
        learned: what the step follows from: one value, or one for each entry of the first dimension of `x`.
        codes: the grid.
        bits: at 32 the values come back as they are.
        unit: the step of a grid whose learned value is 1, above 0.
        strict: whether a value just at an edge counts as outside.
        factor: what the derivative by the step is multiplied with.
    """
    if not torch.compiler.is_compiling() and torch._C._is_tracing():
        return _recorded(x, _step(learned.detach(), unit), codes, bits)
    return _Stepped.apply(x, learned, unit, codes, bits, strict, factor)  # type: ignore[no-any-return]


def _recorded(x: Tensor, step: Tensor, codes: Codes, bits: Number) -> Tensor:
    """`stepped` in plain operations, as ``jit.trace`` can save no others; the step gets no gradient."""
    plain, size = x.detach(), aligned(step.flatten(), x).abs()
    off = torch.as_tensor(bits, device=x.device) >= UNQUANTIZED
    inside = ((plain >= codes.edge_low * size) & (plain <= codes.edge_high * size)) | off
    return torch.where(off, plain, to_steps(plain, step, codes)) + torch.where(inside, x - plain, 0.0)


def _step(learned: Tensor, unit: Number) -> Tensor:
    return widened(learned) if isinstance(unit, float) and unit == 1.0 else widened(learned) * unit


def readable(x: Tensor, bits: Tensor) -> Number:
    """The width as a number where that costs nothing."""
    return bits.item() if may_read(x) and bits.device.type == "cpu" else bits


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
