"""Everything that a run is at one moment, and how it is saved and taken up again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from bitdial.errors import BitdialError
from bitdial.layers.names import named_as, unwrapped
from bitdial.training.batches import BatchStream
from bitdial.training.hooks import Hook, hooks_state
from bitdial.training.optimizer_state import load_optimizer, settings_of
from bitdial.training.optimizers import WeightAverage
from bitdial.training.recorder import StepRecorder
from bitdial.training.scoring import EarlyStopping
from bitdial.training.seeding import random_state, restore_random_state
from bitdial.training.sharding import gathered
from bitdial.training.step.control import PrecisionControl

if TYPE_CHECKING:
    from lightning.fabric import Fabric

_PLAIN = (
    "step", "applied_steps", "epoch", "batch_in_epoch", "lr_scale", "last_learning_rate", "loss", "best_score",
    "best_step", "best_epoch", "seconds", "log_rows", "unscored",
)  # fmt: skip


@dataclass
class TrainingState:
    """A run between two steps. Hooks read it, and may set what `Hook` says.

    A run that is stopped at any step and resumed from `state_dict` on the same machine goes on bit for bit.
    """

    fabric: Fabric
    model: nn.Module
    """The plain model, as it was given; its parameters are `DTensor`s while weights are in shards (strategy "fsdp")."""
    optimizer: Optimizer
    scheduler: LambdaLR
    stream: BatchStream
    recorder: StepRecorder
    control: PrecisionControl
    hooks: Sequence[Hook] = ()
    ema: WeightAverage | None = None
    early_stopping: EarlyStopping | None = None
    monitor: str = "accuracy"
    """The score that best_score and early stopping are of."""
    step: int = 0
    """Optimizer steps done, skipped ones included."""
    applied_steps: int = 0
    """Optimizer steps that moved the weights; the learning-rate schedule counts these."""
    epoch: int = 0
    """Epochs done: the index of the running one."""
    batch_in_epoch: int = 0
    """Batches of the running epoch that were used."""
    lr_scale: float = 1.0
    """Factor on the scheduled learning rate; belongs to the hooks."""
    last_learning_rate: float = float("nan")
    """The rate of the last step."""
    values: dict[str, float] = field(default_factory=dict)
    """Numbers of the running step (such as bits); belongs to the hooks, goes to history and log."""
    scores: dict[str, float] = field(default_factory=dict)
    """The last evaluation."""
    best_score: float | None = None
    """The best monitored score so far."""
    best_step: int | None = None
    """The steps behind it."""
    best_epoch: int | None = None
    """The epochs behind it."""
    loss: float = float("nan")
    """Mean training loss of the last row of the log."""
    seconds: float = 0.0
    """Time spent, over all resumptions."""
    log_rows: int = 0
    """Rows of the log written so far."""
    total_steps: int | None = None
    """Steps of the whole run if nothing stops it; None where nobody knows."""
    last_checkpoint: Path | None = None
    """The newest one of this process that is on the disk."""
    length: tuple[Literal["epoch", "step"], int | None] = ("step", None)
    """What the length of the run is counted in, and how many that are."""
    unscored: dict[str, Any] | None = None
    """What is to be done with the evaluation that the run was stopped in, which comes first when it goes on."""
    stop_requested: str | None = None
    """A reason to stop before the next step, or None."""

    def __post_init__(self) -> None:
        self._built = settings_of(self.optimizer)

    @property
    def history(self) -> dict[str, list[float]]:
        """Columns ``step, loss, learning_rate`` and the hooks' values, one entry per recorded step."""
        return self.recorder.history

    @property
    def evaluated_model(self) -> nn.Module:
        """The weights that count: the average where one is kept, the trained ones else."""
        return self.model if self.ema is None else self.ema.module

    @property
    def learning_rate(self) -> float:
        """The rate of the next step (of the first parameter group)."""
        return float(self.optimizer.param_groups[0]["lr"]) * self.lr_scale

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as plain values and tensors (the live ones, not copies, where they are not in shards).

        With several processes, all must call this; each gets the random states of all, in `rng_state` by rank. Weights
        and states in shards are gathered: the first process gets them whole, in the host's memory, the others nothing.
        """
        return {
            "model_state_dict": gathered(self.fabric, unwrapped(self.model).state_dict()),
            "optimizer_state_dict": gathered(self.fabric, self.optimizer.state_dict()),
            "optimizer_settings": self._built,
            "scheduler_state_dict": {"last_epoch": self.scheduler.last_epoch},
            "scaler_state_dict": self.control.state_dict(),
            "ema_state_dict": None if self.ema is None else gathered(self.fabric, self.ema.state_dict()),
            "early_stopping": None if self.early_stopping is None else self.early_stopping.state_dict(),
            "hooks": hooks_state(self.hooks),
            "recorder": self.recorder.state_dict(),
            "rng_state": _gathered(self.fabric, random_state()),
            "epoch_rng_state": _gathered(self.fabric, self.stream.random_state(mid_epoch=self.batch_in_epoch > 0)),
            "threads": torch.get_num_threads(),
            "accuracy": self.scores.get("accuracy"),
            "scores": dict(self.scores),
            "values": dict(self.values),
            "monitor": self.monitor,
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Restore what `state_dict` gave; return a sentence for each thing that could not be restored.

        A bare state dict of a model, or a checkpoint with a model and no more than some of the rest, is accepted too.

        Raises:
            BitdialError: the weights do not fit the model, or the optimizer's state not the optimizer.
        """
        if "model_state_dict" not in state:
            if not state or not all(isinstance(value, Tensor) for value in state.values()):
                raise BitdialError(
                    "expected a checkpoint with model_state_dict or a bare state dict of tensors, got the keys "
                    f"{', '.join(map(str, list(state)[:8])) or '(none)'}"
                )
            state = {"model_state_dict": state}
        self._load_weights(state)
        notes = self._load_parts(state)
        for name in _PLAIN:
            if state.get(name) is not None:
                setattr(self, name, state[name])
        # the loop's own counters, which say which policies are in force, whether or not the scaler's state was kept
        self.control.steps, self.control.applied_steps = self.step, self.applied_steps
        if "step" not in state:
            notes.append("the checkpoint does not say at which step it was made: counting starts at 0")
        self.scores = dict(state.get("scores") or {})
        self.values = dict(state.get("values") or {})
        return notes + self._load_randomness(state)

    def _load_weights(self, state: Mapping[str, Any]) -> None:
        try:
            self.model.load_state_dict(named_as(self.model, state["model_state_dict"]))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise BitdialError(
                f"the checkpoint does not fit the model: {reason[:300]}; resume with the model it was made with"
            ) from error
        if state.get("optimizer_state_dict") is not None:
            try:
                load_optimizer(self.optimizer, state["optimizer_state_dict"], state.get("optimizer_settings"))
            except BitdialError as error:
                raise BitdialError(
                    f"the checkpoint's optimizer state does not fit: {error}; resume with the same optimizer and model"
                ) from error

    def _load_parts(self, state: Mapping[str, Any]) -> list[str]:
        notes = [] if state.get("optimizer_state_dict") is not None else ["no optimizer state: momentum starts at 0"]
        scheduler = state.get("scheduler_state_dict") or {
            "last_epoch": state.get("applied_steps", state.get("step", 0))
        }
        self._move_scheduler(int(scheduler["last_epoch"]))
        if state.get("scaler_state_dict") is not None:
            notes += self.control.load_state_dict(state["scaler_state_dict"])
        if self.ema is not None:
            if state.get("ema_state_dict"):
                self.ema.load_state_dict(state["ema_state_dict"])
            else:
                self.ema.module.load_state_dict(self.model.state_dict())
                notes.append("no weight average in the checkpoint: averaging starts at its weights")
        if self.early_stopping is not None:
            if state.get("early_stopping"):
                self.early_stopping.load_state_dict(state["early_stopping"])
            else:
                notes.append("no early stopping in the checkpoint: patience starts anew")
        if "recorder" in state:
            self.recorder.load_state_dict(state["recorder"])
        saved = state.get("hooks") or {}
        for hook in self.hooks:
            if hook.state_key in saved:
                hook.load_state_dict(saved[hook.state_key])
            elif hook.state_dict():
                notes.append(f"no state of {hook.state_key} in the checkpoint: it starts anew")
        return notes

    def _move_scheduler(self, applied_steps: int) -> None:
        """Set the schedule's counter, and the rates that it gives there (the run may have become longer since)."""
        self.scheduler.last_epoch = applied_steps
        groups = zip(self.optimizer.param_groups, self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
        for group, base, factor in groups:
            group["initial_lr"] = base
            group["lr"] = base * factor(applied_steps)

    def _load_randomness(self, state: Mapping[str, Any]) -> list[str]:
        states, world = state.get("rng_state"), self.fabric.world_size
        if not states:
            return ["no random states in the checkpoint: shuffling and dropout differ from a run that never stopped"]
        if len(states) != world:
            # each process had used this many batches of its own, smaller or larger, share
            self.batch_in_epoch = self.batch_in_epoch * len(states) // world
            return [
                f"the checkpoint was made by {len(states)} processes and this run has {world}: the data goes on from "
                "the same place, but not bit for bit"
            ]
        rank = self.fabric.global_rank
        notes = self.stream.load_random_state((state.get("epoch_rng_state") or [None] * world)[rank])
        restore_random_state(states[rank])
        before, now = state.get("threads"), torch.get_num_threads()
        if before in (None, now) or self.fabric.device.type != "cpu":
            return notes
        was, has = (f"{threads} thread{'' if threads == 1 else 's'}" for threads in (before, now))
        return [
            *notes,
            f"the checkpoint was made with torch on {was} and this run has {has}: it goes on from the same place, but "
            "not bit for bit, because sums are rounded otherwise (OMP_NUM_THREADS sets the number)",
        ]


def _gathered(fabric: Fabric, mine: Any) -> list[Any]:
    """Return the values of all processes, by rank."""
    if fabric.world_size == 1:
        return [mine]
    everybody: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(everybody, mine)
    return everybody
