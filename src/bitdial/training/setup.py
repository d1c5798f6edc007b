"""Where a network is trained and what that leaves behind, apart from what is trained and how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from bitdial.training.devices import make_fabric
from bitdial.training.early_stopping import EarlyStopping
from bitdial.training.hooks import Hook
from bitdial.training.learning_rate import LearningRateFactor
from bitdial.training.loop import fit
from bitdial.training.loop_config import LoopConfig
from bitdial.training.metrics_log import MetricsLog
from bitdial.training.progress import Progress
from bitdial.training.saving import CheckpointSaver
from bitdial.training.scoring import Evaluate
from bitdial.training.state import TrainingState
from bitdial.training.step.config import MixedPrecisionConfig
from bitdial.training.tasks import Task

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class Setup:
    """Where a network is trained and what it writes; everything has a default that writes nothing.

    Attributes:
        fabric: devices; if None a single process on the CPU or GPU at hand.
        precision: the floating-point format; if None float32.
        task: loss and scores of a batch; if None classification.
        log: rows of metrics.
        progress: the live line.
        checkpoints: where the state is saved.
        checkpoint_interval: optimizer steps between two saves, for who counts in steps; one is always made at the end
            and on Ctrl-C.
        resume: a loaded checkpoint to go on from.
        how_to_resume: the command that goes on, for the message after Ctrl-C.
        compile: compile the model.
        hooks: act around each step, after those of the training itself.
    """

    fabric: Fabric | None = None
    precision: MixedPrecisionConfig | None = None
    task: Task | None = None
    log: MetricsLog | None = None
    progress: Progress | None = None
    checkpoints: CheckpointSaver | None = None
    checkpoint_interval: int | None = 200
    resume: Mapping[str, Any] | None = None
    how_to_resume: str = "the same command with --resume"
    compile: bool = False
    hooks: Sequence[Hook] = ()

    def fit(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        task: Task,
        loader: Iterable[Any],
        config: LoopConfig,
        *,
        learning_rate: LearningRateFactor | None = None,
        evaluate: Evaluate | None = None,
        hooks: Sequence[Hook] = (),
        early_stopping: EarlyStopping | None = None,
    ) -> TrainingState:
        """Train here; see `bitdial.training.fit`."""
        return fit(
            self.fabric or make_fabric(),
            model,
            optimizer,
            task,
            loader,
            config,
            learning_rate=learning_rate,
            precision=self.precision,
            evaluate=evaluate,
            hooks=[*hooks, *self.hooks],
            early_stopping=early_stopping,
            log=self.log,
            checkpoints=self.checkpoints,
            progress=self.progress,
            resume=self.resume,
            how_to_resume=self.how_to_resume,
        )
