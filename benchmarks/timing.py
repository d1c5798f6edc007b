"""Timing, and how the numbers are summed up."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def flush(path: Path) -> None:
    """Make a file durable, as a careful user of ``torch.save`` does."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that `action` takes when nothing else waits to be written."""
    os.sync()
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def stopwatch(action: Callable[[], object]) -> float:
    """Return the seconds that `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def on_device(action: Callable[[], object]) -> float:
    """Return the seconds that what `action` queues takes on the GPU, by its own clock."""
    import torch

    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    before.record()
    action()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after)) / 1e3


def take_turns(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    seconds: float = math.inf,
    clock: Callable[[Callable[[], object]], float] = stopwatch,
) -> dict[str, list[float]]:
    """Return the seconds of each step in every round, by `clock`; who goes first rotates.

    A step must leave nothing in a device's queue. `rounds` are cut short, after three, when `seconds` are over.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    order, began = list(steps), time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - began > seconds:
            break
        first = number % len(order)
        for name in order[first:] + order[:first]:
            times[name].append(clock(steps[name]))
    return times


def quartiles(values: list[float]) -> dict[str, float]:
    """Return median, first and third quartile; of a single value, that."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}
