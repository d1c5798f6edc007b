"""Saving the state of a run from one process, with the others in step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import torch

from bitdial.errors import BitdialError
from bitdial.training.recorder import TrainingDiverged
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
        """Write a checkpoint durably and return its path. The tensors are live: training changes them afterwards."""
        ...


def save_state(state: TrainingState, checkpoints: CheckpointSaver, metric_value: float) -> None:
    """Save `state` from rank 0. Every process must call this, and every one hears of a failure.

    Raises:
        TrainingDiverged: the weights are not finite; nothing is saved, so that the newest checkpoint stays a sound one.
        BitdialError: in the other processes, when rank 0 could not save; rank 0 raises the failure itself.
    """
    weights = [parameter.detach() for parameter in state.model.parameters()]
    if not math.isfinite(float(torch.nn.utils.get_total_norm(weights))):
        raise TrainingDiverged(
            f"the weights are not finite after step {state.step}, expected finite numbers; lower the learning rate "
            f"or clip gradients with max_grad_norm; {last_checkpoint(state)}"
        )
    payload = state.state_dict()
    path, failure = "", None
    if state.fabric.is_global_zero:
        try:
            path = str(
                checkpoints.save_checkpoint(
                    payload.pop("epoch"),
                    payload.pop("model_state_dict"),
                    payload.pop("optimizer_state_dict"),
                    metric_value,
                    **payload,
                )
            )
        except Exception as error:  # raised again below, once the others know
            failure = error
    if state.fabric.world_size > 1:
        path, problem = state.fabric.broadcast((path, failure and f"{type(failure).__name__}: {failure}"))
        if problem and failure is None:
            raise BitdialError(f"the first process could not save a checkpoint: {problem}")
    if failure is not None:
        raise failure
    state.last_checkpoint = Path(path)
    for hook in state.hooks:
        hook.on_checkpoint(state, state.last_checkpoint)


def settle(checkpoints: CheckpointSaver) -> None:
    """Wait until a checkpoint that is being written in the background is on the disk."""
    wait = getattr(checkpoints, "wait", None)
    if wait is not None:
        wait()


def last_checkpoint(state: TrainingState) -> str:
    """Return half a sentence that names the newest checkpoint."""
    path = state.last_checkpoint
    return f"the last checkpoint is {path}" if path is not None else "no checkpoint was written yet"
