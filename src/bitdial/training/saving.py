"""Saving the state of a run from one process, with the others in step, and telling of it when it is on the disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from bitdial.errors import BitdialError
from bitdial.training.devices import in_first_process
from bitdial.training.recorder import TrainingDiverged
from bitdial.training.sharding import whole
from bitdial.training.state import TrainingState


class CheckpointSaver(Protocol):
    """What the loop asks of a checkpoint manager."""

    def save_checkpoint(
        self,
        epoch: int,
        model_state: dict[str, Any],
        optimizer_state: dict[str, Any],
        metric_value: float,
        is_best: bool | None = None,
        **extra: Any,
    ) -> Path:
        """Write a checkpoint durably and return its path, at once or, for a `BackgroundSaver`, before it is written.

        The tensors are live: training changes them afterwards.
        """
        ...


@runtime_checkable
class BackgroundSaver(CheckpointSaver, Protocol):
    """A saver whose files may still be on their way when `save_checkpoint` returns."""

    @property
    def busy(self) -> bool:
        """Whether a save is under way."""
        ...

    def wait(self) -> None:
        """Wait for it, and raise what it raised."""
        ...


class Saves:
    """The saves of one run: one at a time, each told of only when its file is on the disk.

    ``state.last_checkpoint`` and the hooks' `on_checkpoint` follow the disk, not the request: with a saver that writes
    in the background they lag behind by as long as the write takes. With one process that is looked for between any two
    steps; several processes, which must act alike, look at the next save, when they stop and at the end. Without
    `checkpoints` nothing is saved.
    """

    def __init__(self, state: TrainingState, checkpoints: CheckpointSaver | None) -> None:
        self.state = state
        self.checkpoints = checkpoints
        self._behind = checkpoints if isinstance(checkpoints, BackgroundSaver) else None
        self._pending: Path | None = None

    def save(self, metric_value: float) -> None:
        """Save the state from rank 0. Every process must call this, and every one hears of a failure.

        Raises:
            TrainingDiverged: the weights are not finite; nothing is saved, so that the newest checkpoint stays a sound
                one.
            BitdialError: in the other processes, when rank 0 could not save; rank 0 raises the failure itself, that of
                an earlier save in the background too.
        """
        if self.checkpoints is None:
            return
        self.settle()
        state, saver = self.state, self.checkpoints
        weights = [parameter.detach() for parameter in state.model.parameters()]
        if not math.isfinite(float(whole(torch.nn.utils.get_total_norm(weights)))):
            raise TrainingDiverged(
                f"the weights are not finite after step {state.step}, expected finite numbers; lower the learning rate "
                "or clip gradients with max_grad_norm"
            )
        payload = state.state_dict()

        def write() -> str:
            path = saver.save_checkpoint(
                payload.pop("epoch"),
                payload.pop("model_state_dict"),
                payload.pop("optimizer_state_dict"),
                metric_value,
                **payload,
            )
            return str(path)

        self._pending = Path(self._in_first_process(write))
        if self._behind is None:
            self.settle()

    def look(self) -> None:
        """Between two steps: tell of a save that has reached the disk meanwhile, or of its failure."""
        alone = self.state.fabric.world_size == 1
        if self._pending is not None and alone and self._behind is not None and not self._behind.busy:
            self.settle()

    def settle(self) -> None:
        """Wait until what was saved is on the disk. Every process must call this, and every one hears of a failure."""
        path = self._pending
        if path is None:
            return
        self._pending = None  # a failure is told once
        if self._behind is not None:
            self._in_first_process(self._wait)
        self.state.last_checkpoint = path
        for hook in self.state.hooks:
            hook.on_checkpoint(self.state, path)

    def last_checkpoint(self) -> str:
        """Return half a sentence that names the newest checkpoint on the disk, after waiting for one on its way."""
        failure = ""
        if self._pending is not None:
            try:
                self._wait()  # without the others: they may not come here
                self.state.last_checkpoint = self._pending
            except BitdialError as error:
                failure = f" ({error})"
        path = self.state.last_checkpoint
        return (f"the last checkpoint is {path}" if path is not None else "no checkpoint was written yet") + failure

    def _wait(self) -> str:
        if self._behind is not None:
            self._behind.wait()
        return ""

    def _in_first_process(self, action: Callable[[], str]) -> str:
        def told(error: Exception) -> str:
            return f"the first process could not save a checkpoint: {type(error).__name__}: {error}"

        return in_first_process(self.state.fabric, action, told)
