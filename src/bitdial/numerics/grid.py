"""Snapping values to a uniform grid, fast.

`snap` and `snap_symmetric` equal their plain forms in `bitdial.numerics.reference`. What makes them fast on a CPU in
eager mode: fresh large temporaries cost more than the arithmetic, so one is allocated and the rest is done in place;
and a 0-dim tensor can be read without waiting for a device, so work that would change nothing (32 bits, a grid that
starts at zero, as it does behind every ReLU) is left out. While `torch.compile` traces, and on other devices, the
reference is what runs: no value is read there, so one graph serves every width.
"""

from __future__ import annotations

import threading

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


_workspace = threading.local()


def _scratch_like(x: Tensor) -> Tensor:
    """A tensor like `x` in memory that the next call on this thread hands out again."""
    memory: Tensor | None = getattr(_workspace, "memory", None)
    if memory is None or memory.numel() < x.numel():
        # Memory made in inference mode could not be written by a training step later; torch's default dtype and device
        # may be others.
        with torch.inference_mode(False):
            memory = _workspace.memory = torch.empty(x.numel(), dtype=torch.float32, device="cpu")
    return memory[: x.numel()].as_strided(x.shape, torch.empty_like(x, device="meta").stride())


def min_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of a tensor, as two 0-dim float32 tensors; zeros for an empty one."""
    if x.numel() == 0:
        zero = torch.zeros((), dtype=torch.float32, device=x.device)
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
    start, step = low.item(), step_size(low, high, bits).item()
    out = _round_to_steps(x.detach(), start, high.item(), step, clip, torch.empty_like(x)).mul_(step)
    return out.add_(start) if start != 0.0 else out


def snap_factors(x: Tensor, low: Tensor, high: Tensor, bits: Tensor, *, clip: bool = False) -> tuple[Tensor, float]:
    """`snap` in two factors: ``snap(x) == u * step``, up to the rounding of one float32 product.

    Where the values only go into a product with weights, multiplying the (small) weights by `step` instead saves a
    pass over the (large) activations; u are then small whole numbers on a grid that starts at zero.

    Args:
        x, low, high, bits, clip: as for `snap`.

    Returns:
        u, valid until the next call on this thread, which uses the same memory, or `x` itself; and the step.
    """
    if x.numel() == 0 or not _may_read(x, low, high, bits) or torch.is_autocast_enabled("cpu"):
        # Half precision holds neither 65535 steps nor their products.
        return snap(x, low, high, bits, clip=clip), 1.0
    if bits.item() >= UNQUANTIZED:
        return x, 1.0
    start, step = low.item(), step_size(low, high, bits).item()
    if not (1e-20 < step < 1e20 and abs(start) < 1e20 * step):
        # A constant tensor above all: its step is next to nothing, and `start / step` next to infinity.
        return snap(x, low, high, bits, clip=clip), 1.0
    out = _round_to_steps(x.detach(), start, high.item(), step, clip, _scratch_like(x))
    return (out.add_(start / step) if start != 0.0 else out), step


def _round_to_steps(x: Tensor, low: float, high: float, step: float, clip: bool, out: Tensor) -> Tensor:
    """``round((x - low) / step)``, written to `out`."""
    values = torch.clamp(x, low, high, out=out) if clip else x
    values = torch.sub(values, low, out=out) if low != 0.0 else values
    return torch.mul(values, 1.0 / step, out=out).round_()


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
