"""What stepping by hand leaves behind: the outcome of one call, the times of all, and the state in a file."""

from __future__ import annotations

import json
import statistics
import zlib
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitdial.errors import BitdialError
from bitdial.training.checkpoint.writing import save_text

WINDOW = 1000
"""Calls that the median is over."""
_KIND = "scaler state 1"


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What came of one call of `train_step`.

    Attributes:
        loss_tensor: mean loss of the batch, 0-dim, detached, on its device.
        scale: the loss scale after the call.
        stepped: whether the optimizer moved the weights.
        skipped: whether it should have, but loss or gradients were not finite. Both are False in mid-accumulation.
        gradient_norm: 2-norm of the gradient before clipping, where it was clipped.
        seconds: wall-clock time of the call; on a GPU what is still queued is not in it. 0 without `track_performance`.
    """

    loss_tensor: Tensor
    scale: float
    stepped: bool
    skipped: bool
    gradient_norm: Tensor | None
    seconds: float

    @property
    def loss(self) -> float:
        """The loss as a number; waits for the device."""
        return float(self.loss_tensor)


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


def write_state(path: str | Path, state: dict[str, Any]) -> Path:
    """Write a state, whole or not at all; return its path."""
    text, file = json.dumps(state), Path(path)
    save_text(file, json.dumps({"bitdial": _KIND, "crc32": zlib.crc32(text.encode()), "state": text}))
    return file


def read_state(path: str | Path) -> dict[str, Any]:
    """Return the state that `write_state` wrote.

    Raises:
        BitdialError: there is no such file, it is damaged, or holds something else.
    """
    file = Path(path)
    if not file.is_file():
        raise BitdialError(f"expected a file that save_scaler_state wrote, got {file}, which is not there")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["bitdial"] != _KIND or zlib.crc32(content["state"].encode()) != content["crc32"]:
            raise ValueError
        state: dict[str, Any] = json.loads(content["state"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BitdialError(
            f"expected a file that save_scaler_state wrote, got {file}, which is damaged or something else; start "
            "without it: the scale settles within a few steps"
        ) from None
    return state
