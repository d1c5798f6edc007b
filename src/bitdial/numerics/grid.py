"""Snapping values to a uniform grid, fast.

`snap` and `snap_symmetric` equal their plain forms in `bitdial.numerics.reference`. What makes them fast on a CPU in
eager mode: fresh large temporaries cost more than the arithmetic, so one is allocated and the rest is done in place;
and a 0-dim tensor can be read without waiting for a device, so work that would change nothing (32 bits, a grid that
starts at zero, as it does behind every ReLU) is left out. While `torch.compile` traces, and on other devices, the
reference is what runs: no value is read there, so one graph serves every width.

What is done to activations on a CPU are operators that a compiler takes as they are. Left to Inductor, ResNet-20 at
batch 128 took 1.6 times the compiled float step; as operators they run what eager mode runs, and take 1.1 times. They
read their 0-dim arguments when they run, so here too one graph serves every width.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitdial.numerics.native import Kernels, is_dense, kernels
from bitdial.numerics.reference import UNQUANTIZED, level_count, snap_reference, snap_symmetric_reference


def _may_read(x: Tensor, *scalars: Tensor) -> bool:
    """Whether the 0-dim tensors can be read as numbers for free: `may_read`, and all of them on the CPU."""
    return may_read(x) and all(s.dim() == 0 and s.device.type == "cpu" for s in scalars)


def is_opaque(x: Tensor) -> bool:
    """Whether a graph is being traced that will run the operators at the end of this file."""
    return torch.compiler.is_compiling() and x.device.type == "cpu" and x.dtype == torch.float32


class _Workspace(threading.local):
    """Memory that is handed out again and again, each thread its own; with the views that were made of it."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)
        self.views: dict[tuple[torch.Size, tuple[int, ...]], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """A float32 tensor of the shape and strides of `x`, in memory that the next call hands out again."""
        key = x.shape, x.stride()
        view = self.views.get(key)
        if view is None:
            if len(self.views) > 1000 or self.memory.numel() < x.numel():
                self.views.clear()
            # Memory made in inference mode could not be written by a training step later; torch's default dtype and
            # device may be others.
            with torch.inference_mode(False):
                if self.memory.numel() < x.numel():
                    self.memory = torch.empty(x.numel(), dtype=torch.float32, device="cpu")
                strides = torch.empty_like(x, device="meta").stride()
                view = self.views[key] = self.memory[: x.numel()].as_strided(x.shape, strides)
        return view


_workspace = _Workspace()


def release_workspace() -> None:
    """Free the memory that this thread keeps for the next call."""
    _workspace.memory, _workspace.views = torch.empty(0), {}


def min_max_numbers(x: Tensor) -> tuple[float, float]:
    """`min_max` as numbers, for values that `may_read` lets pass."""
    native = kernels()
    if native is not None and is_dense(x):
        return native.min_max(x)
    x = x.detach()
    return x.amin().item(), x.amax().item()


def track(low: Tensor, high: Tensor, batches: Tensor, new_low: float, new_high: float, momentum: float) -> None:
    """Take a batch's range into the running one of `batches` batches, 0-dim tensors, in place.

    Its share is that of a plain average, and `momentum` once that would be less.
    """
    count = batches.item() + 1
    share = max(1 / count, momentum)
    batches.fill_(count)
    for end, new in ((low, new_low), (high, new_high)):
        before = end.item()
        end.fill_(before + share * (new - before))


def min_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of a tensor, as two 0-dim float32 tensors; zeros for an empty one."""
    if x.numel() == 0:
        zero = torch.zeros((), dtype=torch.float32, device=x.device)
        return zero, zero
    if is_opaque(x):
        ends = torch.ops.bitdial.min_max(x)
        return ends[0], ends[1]
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
    if is_opaque(x):
        return torch.ops.bitdial.snap(x, low, high, bits, clip)  # type: ignore[no-any-return]
    grid = read_grid(low.item(), high.item(), bits.item()) if _may_read(x, low, high, bits) else None
    if grid is None:
        return snap_reference(x, low, high, bits, clip=clip)
    return x if grid is IDENTITY else _snap_into(x.detach(), grid, clip, torch.empty_like(x))


def snap_again(x: Tensor, low: Tensor, high: Tensor, bits: Tensor, *, clip: bool = False) -> Tensor:
    """`snap` for the backward pass, as an operator of another name.

    Under one name the compiler would merge the two and keep the values, not the float input; for the ReLU before them
    it would then keep a mask of booleans, and kernels that write such masks take ten times as long.
    """
    if is_opaque(x):
        return torch.ops.bitdial.snap_again(x, low, high, bits, clip)  # type: ignore[no-any-return]
    return snap(x, low, high, bits, clip=clip)


class TensorGrid(NamedTuple):
    """A grid as 0-dim tensors, which a compiled graph takes for inputs."""

    low: Tensor
    high: Tensor
    bits: Tensor


class Grid(NamedTuple):
    """A grid whose ends were read as plain numbers: the values ``low + step * k`` up to `high`."""

    low: float
    high: float
    step: float


IDENTITY = Grid(0.0, 0.0, 1.0)
"""The grid of 32 bits, which leaves everything as it is."""


_TINY, _HUGE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max

_PLAIN = (Tensor, torch.nn.Parameter)
"""Types whose memory is their values; a subclass (DTensor, a fake tensor) may have none, or others."""


def is_traced() -> bool:
    """Whether operations are being recorded, by a compiler, ``jit.trace`` or a mode such as that of ``make_fx``."""
    return torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._len_torch_dispatch_stack() > 0


def may_read(x: Tensor) -> bool:
    """Whether grids for `x` may be read as numbers: a plain float32 tensor, eager mode, on a CPU; it costs nothing."""
    return (
        not is_traced()
        and type(x) in _PLAIN
        and not x.is_neg()  # the imaginary part of a conjugate lies in memory with the other sign
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
    )


def read_grid(low: float, high: float, bits: float) -> Grid | None:
    """The grid of `snap` as numbers; None where an end is not a finite number, or the range none of float32's."""
    if bits >= UNQUANTIZED:
        return IDENTITY
    step = (high - low) / (level_count(bits) - 1)
    # Below: a constant tensor, whose grid has one distinct value.
    return Grid(low, high, max(step, _TINY)) if step < _HUGE else None


def snap_shared(x: Tensor, grid: Grid, *, clip: bool = False) -> Tensor:
    """`snap` into memory that the next call on this thread uses again: fresh memory costs more than the arithmetic.

    For values that `may_read` lets pass and what `read_grid` gave; `x` itself where the grid leaves it as it is.
    """
    return x if grid is IDENTITY else _snap_into(x, grid, clip, _workspace.like(x))


def _snap_into(x: Tensor, grid: Grid, clip: bool, out: Tensor) -> Tensor:
    native = kernels()
    if native is not None and is_dense(x):
        native.snap(x, *grid, clip=clip, out=out)
        return out
    low, high, step = grid
    values = torch.clamp(x, low, high, out=out) if clip else x
    values = torch.sub(values, low, out=out) if low != 0.0 else values
    torch.mul(values, 1.0 / step, out=out).round_().mul_(step)
    return out.add_(low) if low != 0.0 else out


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
    width = bits.item()
    if width >= UNQUANTIZED:
        return x
    last = level_count(width) - 1
    half = last / 2 % 1.0
    end = magnitude.float() / last
    step = (end + end).clamp_min(torch.finfo(torch.float32).tiny)
    out = torch.mul(x, step.reciprocal())
    step = step.masked_fill(magnitude == 0, 0.0)  # nothing but zeros stays nothing but zeros
    if half:
        return out.sub_(half).round_().add_(half).mul_(step)
    return out.round_().mul_(step)


def row_count(weight: Tensor, per_channel: bool) -> int:
    """How many scales a weight ``(out, ...)`` has: one, or one for each output channel (a vector has no channels)."""
    return weight.shape[0] if per_channel and weight.dim() > 1 else 1


def row_kernels(weight: Tensor, gradient: Tensor | None = None) -> Kernels | None:
    """The native kernels, where they can take a weight ``(out, ...)``, and its gradient, as rows of their memory."""
    both = [weight] if gradient is None else [weight, gradient]
    alike = all(map(may_read, both)) and (
        all(x.is_contiguous() for x in both) or all(x.is_contiguous(memory_format=torch.channels_last) for x in both)
    )
    return kernels() if alike else None


def is_off(weight: Tensor, bits: Tensor) -> bool:
    """Whether a weight stays as it is, as far as that can be told for free: it has no values, or 32 bits were read."""
    return weight.numel() == 0 or (may_read(weight) and bits.item() >= UNQUANTIZED)


def unless_off(weight: Tensor, bits: Tensor, quantized: Callable[[], Tensor]) -> Tensor:
    """What `quantized` gives; the weight itself where `is_off`, or where it has 32 bits."""
    if is_off(weight, bits):
        return weight
    return quantized() if may_read(weight) else torch.where(bits >= UNQUANTIZED, weight, quantized())


def snap_to_own_range(weight: Tensor, bits: Tensor, magnitude: Callable[[], Tensor], *, per_channel: bool) -> Tensor:
    """`snap_symmetric` to the largest absolute value of a weight ``(out, ...)``, of each output channel or of all.

    `magnitude` computes that largest value, for the path without native kernels.
    """
    native = row_kernels(weight)
    if native is None:
        return snap_symmetric(weight, magnitude(), bits)
    width = bits.item()
    if width >= UNQUANTIZED:
        return weight
    last = level_count(width) - 1
    return native.snap_rows(weight, row_count(weight, per_channel), last, last / 2 % 1.0)


def _snap_anew(x: Tensor, low: Tensor, high: Tensor, bits: Tensor, clip: bool) -> Tensor:
    snapped = snap(x, low, high, bits, clip=clip)
    return snapped.clone() if snapped is x else snapped  # an operator may not return its input


def _min_max_in_one(x: Tensor) -> Tensor:
    return torch.stack(min_max(x))


def _track_ends(ends: Tensor, low: Tensor, high: Tensor, batches: Tensor, momentum: float) -> None:
    track(low, high, batches, ends[0].item(), ends[1].item(), momentum)


def _register(name: str, run: Callable[..., Any], shape_only: Callable[..., Any], **options: Any) -> None:
    torch.library.custom_op(f"bitdial::{name}", run, device_types="cpu", **options).register_fake(shape_only)


_PURE: dict[str, Any] = {"mutates_args": (), "tags": (torch.Tag.flexible_layout,)}
_register("snap", _snap_anew, lambda x, low, high, bits, clip: torch.empty_like(x), **_PURE)
_register("snap_again", _snap_anew, lambda x, low, high, bits, clip: torch.empty_like(x), **_PURE)
_register("min_max", _min_max_in_one, lambda x: x.new_empty(2), **_PURE)
_register("track", _track_ends, lambda *_: None, mutates_args=("low", "high", "batches"))
