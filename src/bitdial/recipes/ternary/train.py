"""Training one network of a run: optimizer, schedule, hooks, checkpoints, and how it is taken up again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from bitdial.data import BatchLoader
from bitdial.evaluation import evaluate_loss_accuracy
from bitdial.layers import BitDial, QuantizedLayer
from bitdial.recipes.ternary.config import TernaryConfig
from bitdial.training import (
    CheckpointManager,
    Classification,
    Distillation,
    EarlyStopping,
    Hook,
    LearningRateConfig,
    LearningRateFactor,
    LoopConfig,
    MetricsLog,
    MixedPrecisionConfig,
    OptimizerConfig,
    Progress,
    Task,
    TrainingState,
    WeightStatistics,
    build_optimizer,
    fit,
    learning_rate_factor,
)

if TYPE_CHECKING:
    from lightning.fabric import Fabric

LONGEST_WARMUP = 5
"""Epochs of warm-up in a long run, where the user says nothing."""
SHARE_OF_WARMUP = 0.05
"""Share of a short run that is warm-up, where the user says nothing."""


@dataclass(frozen=True)
class Setup:
    """Where a network is trained and what that leaves.

    Attributes:
        fabric: launched.
        precision: the floating-point format.
        log: rows of metrics.
        progress: the live line.
        checkpoints: where states are saved.
        how_to_resume: the command that goes on, for the message after Ctrl-C.
    """

    fabric: Fabric
    precision: MixedPrecisionConfig
    log: MetricsLog
    progress: Progress
    checkpoints: CheckpointManager
    how_to_resume: str


class BestScore(Hook):
    """Measures the validation images and remembers the best accuracy, which the log shows."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches
        self.best = -math.inf

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Scores for the loop: accuracy, loss, best accuracy so far."""
        loss, accuracy = evaluate_loss_accuracy(model, self.batches)
        self.best = max(self.best, accuracy)
        return {"accuracy": accuracy, "loss": loss, "best_accuracy": self.best}

    def state_dict(self) -> dict[str, Any]:
        """The best accuracy so far."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from it."""
        self.best = float(state["best"])


class DialledCheckpoints:
    """Saves checkpoints that also hold the widths of the layers, for readers without the network."""

    def __init__(self, manager: CheckpointManager, model: nn.Module) -> None:
        self.manager = manager
        self._dial = BitDial(model) if any(isinstance(module, QuantizedLayer) for module in model.modules()) else None

    def save_checkpoint(
        self,
        epoch: int,
        model_state: dict[str, Any],
        optimizer_state: dict[str, Any],
        metric_value: float,
        is_best: bool | None = None,
        **extra: Any,
    ) -> Path:
        """As `CheckpointManager.save_checkpoint`, with the key ``dial``: part -> layer -> width, or None."""
        dial = None if self._dial is None else self._dial.state_dict()
        return self.manager.save_checkpoint(
            epoch, model_state, optimizer_state, metric_value, is_best, dial=dial, **extra
        )

    @property
    def busy(self) -> bool:
        """Whether something is being written."""
        return self.manager.busy

    def wait(self) -> None:
        """Wait for what is being written."""
        self.manager.wait()


def loop_config(config: TernaryConfig) -> LoopConfig:
    """Length, intervals and averages of the loop."""
    return LoopConfig(
        steps=config.steps,
        epochs=config.epochs,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        max_grad_norm=config.max_grad_norm,
        log_interval=config.log_interval,
        checkpoint_interval=config.checkpoint_interval,
        checkpoint_epochs=config.save_freq,
        checkpoint_best=bool(config.keep_best),
        history_interval=config.log_interval,
        monitor=config.monitor,
        monitor_mode=config.monitor_mode,
        ema_decay=config.ema_decay,
        compile=config.compile,
    )


def optimizer_for(model: nn.Module, config: TernaryConfig) -> Optimizer:
    """The optimizer of a configuration."""
    return build_optimizer(
        model,
        OptimizerConfig(
            optimizer=config.optimizer,
            learning_rate=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            nesterov=config.nesterov,
            decay_norm_and_bias=config.decay_norm_and_bias,
        ),
    )


def steps_of(config: TernaryConfig, loader: BatchLoader) -> tuple[int, int]:
    """Optimizer steps of an epoch, and of the whole run."""
    total = loop_config(config).total_steps(len(loader))
    assert total is not None  # the loader has a length
    return -(-len(loader) // config.gradient_accumulation_steps), total


def schedule_for(config: TernaryConfig, loader: BatchLoader) -> LearningRateFactor:
    """The learning rate as a factor of the optimizer step.

    Raises:
        BitdialError: the warm-up is as long as the run, or a milestone is below 0.
    """
    per_epoch, total = steps_of(config, loader)
    if config.warmup_epochs is not None:
        warmup = round(config.warmup_epochs * per_epoch)
    elif config.scheduler == "onecycle":  # has a rise of its own
        warmup = 0
    else:
        warmup = int(min(LONGEST_WARMUP * per_epoch, SHARE_OF_WARMUP * total))
    shape = LearningRateConfig(
        scheduler=config.scheduler, warmup_steps=warmup, milestones=tuple(config.milestones), decay=config.lr_decay
    )
    return learning_rate_factor(shape, total)


def train_network(
    model: nn.Module,
    config: TernaryConfig,
    training: BatchLoader,
    validation: Iterable[Any] | None,
    setup: Setup,
    *,
    teacher: nn.Module | None = None,
    resume: Mapping[str, Any] | None = None,
) -> TrainingState:
    """Train a network as the configuration says, in place.

    Args:
        model: from `Network.build`.
        config: of one experiment.
        training: batches.
        validation: batches of held-out images, or None.
        setup: devices and files.
        teacher: an unquantized network to learn from.
        resume: a loaded checkpoint to go on from.

    Returns:
        The state at the end.

    Raises:
        BitdialError: the checkpoint does not fit, or a loss is not finite.
        RunInterrupted: stopped on request, after saving.
    """
    task: Task = Classification(config.label_smoothing)
    if teacher is not None:
        task = Distillation(
            task, setup.fabric.to_device(teacher), config.distillation_alpha, config.distillation_temperature
        )
    best = None if validation is None else BestScore(validation)
    hooks: list[Hook] = [] if best is None else [best]
    if not config.is_float:
        hooks.append(WeightStatistics())
    stopping = None
    if config.early_stopping:
        stopping = EarlyStopping(
            config.early_stopping_patience, config.early_stopping_min_delta, mode=config.monitor_mode
        )
    return fit(
        setup.fabric,
        model,
        optimizer_for(model, config),
        task,
        training,
        loop_config(config),
        learning_rate=schedule_for(config, training),
        precision=setup.precision,
        evaluate=best,
        hooks=hooks,
        early_stopping=stopping,
        log=setup.log,
        checkpoints=DialledCheckpoints(setup.checkpoints, model),
        progress=setup.progress,
        resume=None if resume is None else _with_patience(resume, config),
        how_to_resume=setup.how_to_resume,
    )


def _with_patience(state: Mapping[str, Any], config: TernaryConfig) -> dict[str, Any]:
    """The state to resume from, with the patience that is asked for now."""
    stopping = state.get("early_stopping")
    if not stopping:
        return dict(state)
    return {**state, "early_stopping": {**stopping, "patience": config.early_stopping_patience}}
