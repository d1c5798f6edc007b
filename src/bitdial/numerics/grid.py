"""Snapping values to a uniform grid, fast.

`snap` and `snap_symmetric` equal their plain forms in `bitdial.numerics.reference`. What makes them fast on a CPU in
eager mode: fresh large temporaries cost more than the arithmetic, so one is allocated and the rest is done in place;
and a 0-dim tensor can be read without waiting for a device, so work that would change nothing (32 bits, a grid that
starts at zero, as it does behind every ReLU) is left out. While `torch.compile` traces, and on other devices, the
reference is what runs: no value is read there, so one graph serves every width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitdial.numerics.reference import snap_reference, snap_symmetric_reference, step_size
from bitdial.numerics.widths import UNQUANTIZED, levels


def _may_read(x: Tensor, *scalars: Tensor) -> bool:
    """Whether the 0-dim tensors can be read as numbers for free: eager mode, float32 values, all on the CPU."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and all(s.dim() == 0 and s.device.type == "cpu" for s in scalars)
    )


def min_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of a tensor, as two 0-dim float32 tensors; zeros for an empty one."""
    if x.numel() == 0:
        zero = torch.zeros((), device=x.device)
        return zero, zero
    # Two reductions: torch.aminmax over a whole tensor takes longer than both together on a CPU.
    return x.amin().float(), x.amax().float()


def snap(x: Tensor, low: Tensor, high: Tensor, bits: Tensor, *, clip: bool = False) -> Tensor:
    """Nearest value on the uniform grid with ``levels(bits)`` values from `low` to `high`.

    ``low + step * round((x - low) / step)`` with ``step = (high - low) / (levels - 1)``, ties to even; no autograd.

    Args:
        x: values, any shape and floating dtype; computed in float32, returned in the dtype of `x`.
        low, high: 0-dim tensors, the ends of the grid; values outside extend the grid unless `clip`.
        bits: 0-dim float tensor; at 32 the values come back as they are, bit for bit.
        clip: bring values outside [low, high] to the nearer end first.

    Returns:
        A new tensor of the same shape (`x` itself where nothing is to be done in eager mode).
    """
    if x.numel() == 0:
        return x
    if not _may_read(x, low, high, bits):
        return snap_reference(x, low, high, bits, clip=clip)
    if bits.item() >= UNQUANTIZED:
        return x
    step, start = step_size(low, high, bits), low.item()
    out = x.clamp(start, high.item()) if clip else None
    if start != 0.0:
        out = out.sub_(start) if out is not None else torch.sub(x, start)
    out = torch.mul(x, step.reciprocal()) if out is None else out.mul_(step.reciprocal())
    out = out.round_().mul_(step)
    return out.add_(start) if start != 0.0 else out


def snap_symmetric(x: Tensor, magnitude: Tensor, bits: Tensor) -> Tensor:
    """Nearest value on the uniform grid with ``levels(bits)`` values from ``-magnitude`` to ``+magnitude``.

    ``step * (round(x / step - h) + h)`` with ``step = 2 * magnitude / (levels - 1)`` and h = 1/2 for an even number of
    levels (which then have no zero), 0 for an odd one. At 1 bit this is ``magnitude * sign(x)``. No autograd.

    Args:
        x: values with ``|x| <= magnitude``, any shape and floating dtype.
        magnitude: what broadcasts against `x`: 0-dim, or ``(out, 1, ...)`` for one grid per output channel.
        bits: 0-dim float tensor; at 32 the values come back as they are, bit for bit.

    Returns:
        A new tensor of the same shape (`x` itself where nothing is to be done in eager mode).
    """
    if x.numel() == 0:
        return x
    if not _may_read(x, bits):
        return snap_symmetric_reference(x, magnitude, bits)
    if bits.item() >= UNQUANTIZED:
        return x
    step = step_size(-magnitude, magnitude, bits)
    half = ((levels(bits) - 1) / 2).item() % 1.0
    out = torch.mul(x, step.reciprocal())
    if half:
        out.sub_(half).round_().add_(half)
    else:
        out.round_()
    return out.mul_(step.masked_fill(magnitude == 0, 0.0))
