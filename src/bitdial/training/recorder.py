"""What the steps gave, collected without making the host wait for the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bitdial.errors import BitdialError
from bitdial.training.tasks import Count


class TrainingDiverged(BitdialError):  # noqa: N818  (named for what happened)
    """The loss or the gradient is no longer a finite number."""


class StepRecorder:
    """Keep each step's loss and metrics as tensors until somebody must know them.

    `flush` brings all pending numbers to the host at once, averaged over the processes. `window` then holds the steps
    since the last row of the log, each number with what it is a mean over; `epoch` the sums of the running epoch, and
    `history` one entry for every `history_interval`-th step, columns ``step, loss, learning_rate`` and whatever the
    hooks put into ``state.values``. A mean over steps, or processes, is one over all that they counted.
    """

    def __init__(self, history_interval: int = 1) -> None:
        self.history_interval = history_interval
        self.history: dict[str, list[float]] = {"step": [], "loss": [], "learning_rate": []}
        self.window: list[dict[str, tuple[float, float]]] = []
        self.epoch: dict[str, tuple[float, float]] = {}
        self._pending: list[tuple[dict[str, float], dict[str, Tensor], Count]] = []

    def add(
        self,
        step: int,
        learning_rate: float,
        values: Mapping[str, float],
        tensors: dict[str, Tensor],
        count: Count = 1,
    ) -> None:
        """Take the detached 0-dim `tensors` of step number `step`, the first being 1; means over `count` things.

        ``"loss"`` is among them, unless the step was lost: then there are none, and its loss is NaN in the history.
        """
        self._pending.append(({"step": step, "learning_rate": learning_rate, **values}, tensors, count))

    def flush(self, fabric: Any) -> None:
        """Bring the pending steps to the host. Every process must call this at the same step.

        Raises:
            TrainingDiverged: a loss or the norm of a gradient is no finite number; the text names the step.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        numbers = _numbers([(tensors, count) for _, tensors, count in pending], fabric)
        for row, tensors, _ in pending:
            found = {name: next(numbers) for name in tensors}
            got = {name: (mean, count) for name, (mean, count) in found.items() if count > 0}
            for name in ("loss", "gradient_norm"):
                value = got.get(name, (0.0, 0.0))[0]
                if not math.isfinite(value):
                    raise TrainingDiverged(
                        f"the {name.replace('_', ' ')} became {value} at step {row['step']} "
                        f"(learning rate {row['learning_rate']:.3g}), expected a finite number; lower the learning "
                        "rate, clip gradients with max_grad_norm, or look for bad values in the data"
                    )
            if got:
                self.window.append(got)
            if row["step"] % self.history_interval == 0:
                self._remember({"loss": got["loss"][0] if "loss" in got else math.nan, **row})

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
            total, count = math.fsum(mean * count for mean, count in numbers), math.fsum(count for _, count in numbers)
            before = self.epoch.get(name, (0.0, 0.0))
            self.epoch[name] = (before[0] + total, before[1] + count)
            means[name] = total / count
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
        # one number alone: a checkpoint of before there were counts
        self.window = [
            {name: tuple(got) if isinstance(got, list | tuple) else (got, 1.0) for name, got in row.items()}
            for row in state["window"]
        ]
        self.epoch = {name: (total, count) for name, (total, count) in state["epoch"].items()}
        self._pending = []


def _numbers(steps: Sequence[tuple[dict[str, Tensor], Count]], fabric: Any) -> Iterator[tuple[float, float]]:
    """Return the means of all steps, over all processes, each with what it is over; a gradient's norm counts once."""
    means = [tensor for tensors, _ in steps for tensor in tensors.values()]
    counts = [1 if name == "gradient_norm" else count for tensors, count in steps for name in tensors]
    if not means:
        return iter(())
    values = torch.stack([mean.to(means[0].device, torch.float32) for mean in means])
    weights = (
        torch.stack([torch.as_tensor(count, dtype=torch.float32, device=values.device) for count in counts])
        if any(isinstance(count, Tensor) for count in counts)
        else torch.tensor(counts, dtype=torch.float32)
    )
    if fabric.world_size > 1:
        weights = weights.to(values.device)
        sums = torch.stack([torch.where(weights > 0, values, 0.0) * weights, weights])
        total, weights = fabric.all_reduce(sums, reduce_op="sum")
        values = total / weights
    return zip(values.tolist(), weights.tolist(), strict=True)
