"""What steps cost: their times, and the peak of memory where the device can tell."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Any

import torch

WINDOW = 1000
"""Calls that the median is over."""


class Performance:
    """Times of the calls of a trainer."""

    def __init__(self) -> None:
        self.calls = 0
        self.total = 0.0
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def add(self, seconds: float) -> None:
        """Take the time of one call."""
        self.calls += 1
        self.total += seconds
        self._recent.append(seconds)

    def summary(self, device: torch.device) -> dict[str, Any]:
        """Return seconds in all, on average and in the middle, and the peak of memory that `device` had allocated."""
        return {
            "total_time": self.total,
            "average_step_time": self.total / self.calls if self.calls else 0.0,
            "median_step_time": statistics.median(self._recent) if self._recent else 0.0,
            "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        }
