"""The largest batch that fits into a memory, found by measuring whole training steps at a few sizes.

The model of memory: what a step holds at its fullest moment is the largest of several sums ``fixed + slope * batch``,
one for each moment (end of the forward pass, update of the weights, ...). Such a maximum is convex in the batch. So
a line through two measured sizes never lies above what a larger batch takes, a batch that is k times as large takes at
most k times as much, and where activations dominate the line is exact. Nothing of the network is computed from its
shapes: every number is measured.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch

from bitdial import machine
from bitdial.errors import BitdialError
from bitdial.numerics.grid import release_workspace
from bitdial.training.step.memory import is_out_of_memory

MARGIN = 0.1
"""Share of a limit that is left free: for what no tensor holds (workspaces of libraries, gaps between blocks)."""
USUAL_OVERHEAD = 1.4
"""What a C library's heap takes for each byte of tensors, where it cannot be measured; glibc's 1.3 to 1.5."""
_LARGE = 2**25
"""Bytes from which on the memory of a process tells what a step takes."""
_CLOSE = 16
"""A size is the largest when one that is larger by this share of it does not fit."""
GIB = 2**30


@dataclass(frozen=True)
class BatchFit:
    """The largest batch that fits.

    Attributes:
        size: examples.
        fixed: bytes that do not depend on it, by the line through the smallest size that was tried and the one found.
        per_example: bytes of each example, by the same line.
        limit: bytes that it had to fit in.
        most: the largest size that was allowed, or None.
        tried: size -> bytes that were measured; infinite where memory ran out.
    """

    size: int
    fixed: float
    per_example: float
    limit: int
    most: int | None
    tried: dict[int, float]


def find_batch_size(
    peak: Callable[[int], float], limit: int, *, most: int | None = None, multiple: int = 1
) -> BatchFit:
    """Find the largest batch whose steps stay within a limit.

    Sizes are tried from 2 up (batch norm cannot train on one example), each as large as the measurements so far prove,
    or their line predicts, to fit; at most twice the last one where only the line says so. It ends where the line, or
    a measurement, says that a batch larger by a sixteenth (or by `multiple`) does not fit.

    Args:
        peak: batch size -> the most bytes that a whole step of it holds at once (see `peak_memory`); may run out of
            memory, which counts as not fitting.
        limit: bytes.
        most: the largest size to try, such as the number of examples.
        multiple: what the size must divide by.

    Raises:
        BitdialError: not even the smallest batch fits, or `most` is less than that.
    """
    tried: dict[int, float] = {}

    def measured(units: int) -> float:
        try:
            tried[units * multiple] = found = float(peak(units * multiple))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            tried[units * multiple] = found = math.inf
        return found

    top = 2**31 if most is None else most // multiple
    if top < 1:
        raise BitdialError(f"expected at least {multiple} examples, one for each device, got {most}; add some")
    low = min(2, top)
    points = [(low, measured(low))]
    if points[0][1] > limit and low > 1:
        low, points = 1, [(1, _of_one(measured))]
    if points[0][1] > limit:
        raise BitdialError(
            f"not even a batch of {multiple} fits: expected at most {told_bytes(limit)} for it, got "
            f"{told_bytes(tried[max(tried)] if math.isinf(points[0][1]) else points[0][1])}; give it more memory, "
            "or take a smaller network"
        )
    high, high_bytes = top + 1, math.inf
    while high - low > (max(1, low // _CLOSE) if high <= top else 1):
        taken = points[-1][1]
        if high <= top:  # between a size that fits and one that does not
            share = (limit - taken) / (high_bytes - taken) if math.isfinite(high_bytes) else 0.5
            guess = low + max(1, int(share * (high - low)))
        else:
            line = low + 1 if len(points) == 1 else _by_line(points, limit)
            guess = max(min(line, 2 * low), int(low * limit / max(taken, 1)))
            if guess <= low:
                break
        guess = min(guess, high - 1)
        found = measured(guess)
        if found <= limit:
            low = guess
            points.append((guess, found))
        else:
            high, high_bytes = guess, found
    slope, fixed = _line([min(tried.items()), (low * multiple, tried[low * multiple])])
    return BatchFit(low * multiple, fixed, slope, limit, most, tried)


def _of_one(measured: Callable[[int], float]) -> float:
    """What one example takes, where a network can train on one at all."""
    try:
        return measured(1)
    except (RuntimeError, ValueError):
        return math.inf


def _line(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Slope and intercept of the line through two points; through one, all depends on the batch."""
    (one, first), (other, last) = points[0], points[-1]
    if one == other:
        return first / one, 0.0
    slope = (last - first) / (other - one)
    return slope, last - slope * other


def _by_line(points: list[tuple[int, float]], limit: float) -> int:
    """The largest size that fits by the line through the two largest sizes; very large where the line does not rise."""
    slope, fixed = _line(points[-2:])
    return int((limit - fixed) / slope) if slope > 0 else 2**31


def told_bytes(count: float) -> str:
    """A number of bytes in words."""
    if not math.isfinite(count):
        return "more than there is"
    for unit, name in ((GIB, "GiB"), (2**20, "MiB")):
        if count >= unit / 10:
            return f"{count / unit:.2f} {name}" if unit == GIB else f"{count / unit:.1f} {name}"
    return f"{count / 2**10:.1f} KiB"


def peak_memory(work: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Do something, and return the most bytes that it held at once.

    On a CPU these are the bytes of the tensors that it made, temporary ones inside of operations included, by the
    events of PyTorch's profiler. On a GPU it is all that this process had reserved of the device, by the statistics of
    PyTorch's allocator; there it may run out of memory.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            work()
            return int(torch.cuda.max_memory_reserved(device))
        finally:
            gc.collect()
            torch.cuda.empty_cache()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would tell of itself on standard error
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    release_workspace()  # what is kept from one step to the next counts
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as profiler:
        work()
        gc.collect()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    held: dict[int, int] = {}  # address -> bytes
    now = most = 0
    for event in sorted(_allocations(profiler.profiler.kineto_results.experimental_event_tree()), key=itemgetter(0)):
        _, address, size = event
        if size > 0:
            held[address] = size
            now += size
            most = max(most, now)
        else:
            now -= held.pop(address, 0)  # 0: what was there before
    return most


def _allocations(events: Sequence[Any]) -> Iterator[tuple[int, int, int]]:
    """Time, address and bytes of everything that was allocated, or, with negative bytes, freed."""
    for event in events:
        found = event.extra_fields
        if hasattr(found, "alloc_size"):
            yield event.start_time_ns, found.ptr, found.alloc_size
        yield from _allocations(event.children)


def memory_beyond(own: int, budget: int, device: torch.device) -> Callable[[Callable[[], Any]], float]:
    """How to measure what something takes beyond what the process had: a function of the work that returns bytes.

    On a CPU it is all that the system says the process held (Linux), so that workspaces and the heap count too, and
    measuring takes no memory itself. Where a budget is small against what varies there, or the system does not tell,
    the tensors are counted (see `peak_memory`), with what the heap usually adds.

    Args:
        own: bytes that the process had.
        budget: bytes that the work may take.
        device: it works on.
    """
    if device.type == "cuda":
        return lambda work: peak_memory(work, device)
    if budget < _LARGE:
        return peak_memory
    if machine.most_used_memory(anew=True) is None:
        return lambda work: USUAL_OVERHEAD * peak_memory(work)

    def by_system(work: Callable[[], Any]) -> float:
        gc.collect()
        release_workspace()
        machine.return_free_memory()
        machine.most_used_memory(anew=True)
        work()
        most = machine.most_used_memory()
        assert most is not None
        return max(most - own, 1)

    return by_system


def free_for_tensors(device: torch.device, limit_gib: float | None, processes: int = 1) -> tuple[int, int, int]:
    """What training may take, what the limit is in all, and what of that is taken already, in bytes.

    Args:
        device: that trains.
        limit_gib: for all processes of this machine, or of the device; None: what is free now: on a CPU what the
            machine, the container and the limits of the process leave, on a GPU what the driver tells.
        processes: that share a CPU's memory.

    Returns:
        The bytes for `peak_memory`, with the margin taken off; the limit; what the process has already (on a GPU
        `peak_memory` counts that itself, so that it is 0).
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        there = free + torch.cuda.memory_reserved(device)
        limit = there if limit_gib is None else min(there, int(limit_gib * GIB))
        return int(limit * (1 - MARGIN)), limit, 0
    if device.type != "cpu":
        raise BitdialError(f"batch_size auto measures on a CPU or a CUDA GPU, got {device.type}; give a number")
    own = machine.used_memory()
    limit = own + machine.memory_left() // processes if limit_gib is None else int(limit_gib * GIB) // processes
    return int(limit * (1 - MARGIN)) - own, limit, own
