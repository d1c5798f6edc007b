"""Timing of what writes to a disk, and how the numbers are summed up."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
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


def quartiles(values: list[float]) -> dict[str, float]:
    """Return median, first and third quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}
