"""What the steps gave, collected without making the host wait for the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from bitdial.errors import BitdialError


class TrainingDiverged(BitdialError):  # noqa: N818  (named for what happened)
    """The loss or the gradient is no longer a finite number."""


class StepRecorder:
    """Keep each step's loss and metrics as tensors until somebody must know them.

    `flush` brings all pending numbers to the host at once, averaged over the processes. `window` then holds the steps
    since the last row of the log, `epoch` the sums of the running epoch, and `history` one entry for every
    `history_interval`-th step, columns ``step, loss, learning_rate`` and whatever the hooks put into ``state.values``.
    """

    def __init__(self, history_interval: int = 1) -> None:
        self.history_interval = history_interval
        self.history: dict[str, list[float]] = {"step": [], "loss": [], "learning_rate": []}
        self.window: list[dict[str, float]] = []
        self.epoch: dict[str, tuple[float, int]] = {}
        self._pending: list[tuple[dict[str, float], dict[str, Tensor]]] = []

    def add(self, step: int, learning_rate: float, values: Mapping[str, float], tensors: dict[str, Tensor]) -> None:
        """Take the detached 0-dim `tensors` of step number `step`, the first being 1.

        ``"loss"`` is among them, unless the step was lost: then there are none, and its loss is NaN in the history.
        """
        self._pending.append(({"step": step, "learning_rate": learning_rate, **values}, tensors))

    def flush(self, fabric: Any) -> None:
        """Bring the pending steps to the host. Every process must call this at the same step.

        Raises:
            TrainingDiverged: a loss or the norm of a gradient is no finite number; the text names the step.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        flat = [tensor for _, tensors in pending for tensor in tensors.values()]
        numbers: Iterator[float] = iter(())
        if flat:
            stacked = torch.stack([tensor.to(flat[0].device, torch.float32) for tensor in flat])
            numbers = iter(fabric.all_reduce(stacked, reduce_op="mean").tolist())
        for row, tensors in pending:
            got = {name: next(numbers) for name in tensors}
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(got.get(name, 0.0)):
                    raise TrainingDiverged(
                        f"the {name.replace('_', ' ')} became {got[name]} at step {row['step']} "
                        f"(learning rate {row['learning_rate']:.3g}), expected a finite number; lower the learning "
                        "rate, clip gradients with max_grad_norm, or look for bad values in the data"
                    )
            if got:
                self.window.append(got)
            if row["step"] % self.history_interval == 0:
                self._remember({"loss": got.get("loss", math.nan), **row})

    def _remember(self, row: dict[str, float]) -> None:
        known = len(self.history["step"])
        for name in row.keys() - self.history.keys():
            self.history[name] = [math.nan] * known  # a value that came up in the middle of the run
        for name, column in self.history.items():
            column.append(row.get(name, math.nan))

    def take_window(self) -> dict[str, float]:
        """Return the means since the last call, and add them to the epoch's."""
        means = {}
        for name in {name: None for row in self.window for name in row}:
            numbers = [row[name] for row in self.window if name in row]
            total, count = self.epoch.get(name, (0.0, 0))
            self.epoch[name] = (total + math.fsum(numbers), count + len(numbers))
            means[name] = math.fsum(numbers) / len(numbers)
        self.window = []
        return means

    def take_epoch(self) -> dict[str, float]:
        """Return the means of the epoch (of what `take_window` has seen since the last call)."""
        means = {name: total / count for name, (total, count) in self.epoch.items()}
        self.epoch = {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return history, window and epoch sums; nothing may be pending."""
        assert not self._pending, "flush before saving"
        history = {name: torch.tensor(column, dtype=torch.float64) for name, column in self.history.items()}
        return {"history": history, "window": list(self.window), "epoch": {k: list(v) for k, v in self.epoch.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.history = {name: column.tolist() for name, column in state["history"].items()}
        self.history["step"] = [int(step) for step in self.history["step"]]
        self.window = [dict(row) for row in state["window"]]
        self.epoch = {name: (total, count) for name, (total, count) in state["epoch"].items()}
        self._pending = []
