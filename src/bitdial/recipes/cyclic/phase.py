"""One phase of training at a schedule of precision: what every arm of the comparison goes through."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.evaluation import History
from bitdial.evaluation.files import write_atomically
from bitdial.evaluation.sweep import sweep
from bitdial.layers import Ledger, PrecisionScheduler
from bitdial.recipes.cyclic.config import CyclicTrainingConfig
from bitdial.recipes.cyclic.scheduler import CyclicPrecisionScheduler
from bitdial.training import (
    CheckpointSaver,
    Classification,
    Distillation,
    Hook,
    LearningRateConfig,
    LoopConfig,
    MetricsLog,
    MixedPrecisionConfig,
    OptimizerConfig,
    Progress,
    Task,
    TrainingState,
    build_optimizer,
    fit,
    learning_rate_factor,
    make_fabric,
)
from bitdial.training.sharding import gathered
from bitdial.training.tasks import TaskOutput

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class Loaders:
    """The data of a phase.

    Attributes:
        train: training batches, iterated again and again.
        test: batches to measure on.
        recalibration: training batches, unaugmented where possible, that batch-norm statistics are re-estimated from.
    """

    train: Iterable[Any]
    test: Iterable[Any]
    recalibration: Iterable[Any]


@dataclass(frozen=True)
class PhaseSetup:
    """Where a phase runs and what it writes; everything has a default that writes nothing.

    Attributes:
        fabric: devices; if None a single process on the CPU or GPU at hand.
        precision: the floating-point format; if None float32, or what the training's ``use_amp`` means.
        task: loss and scores of a batch.
        log: rows of metrics.
        progress: the live line.
        checkpoints: where the state is saved.
        checkpoint_interval: optimizer steps between two saves; one is always made at the end and on Ctrl-C.
        resume: a loaded checkpoint to go on from.
        how_to_resume: the command that goes on, for the message after Ctrl-C.
        compile: compile the model.
        cycle_checkpoints: folder for the weights at the end of every cycle, or None.
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
    cycle_checkpoints: Path | None = None


@dataclass(frozen=True)
class PhaseResult:
    """What a phase leaves.

    Attributes:
        model: the trained model, in training mode, its dial where the phase ended.
        history: loss, bits and learning rate at every step.
        bitops: simulated BitOps of all its steps.
        average_bits: mean forward width over its steps, weighted with multiply-accumulates.
        seconds: wall-clock, over all resumptions.
        iterations: optimizer steps.
        precision_note: which of them a narrow format lost, and where it changed; None where all went well.
    """

    model: nn.Module
    history: History
    bitops: float
    average_bits: float
    seconds: float
    iterations: int
    precision_note: str | None = None


class PrecisionHook(Hook):
    """Turns the dial before every step and counts what the step cost."""

    def __init__(self, scheduler: PrecisionScheduler, ledger: Ledger) -> None:
        self.scheduler = scheduler
        self.ledger = ledger
        self.bitops = 0.0
        self.bits_sum = 0.0
        self._step_cost: tuple[tuple[float, ...], float, float] = ((), 0.0, 0.0)
        self._batches_before = 0

    def before_step(self, state: TrainingState) -> None:
        """Bring the dial to this step's widths, and the learning rate to its factor."""
        if self.scheduler.iteration != state.step:
            self.scheduler.load_state_dict({"iteration": state.step})
        widths = tuple(self.scheduler.bits)
        if widths != self._step_cost[0]:
            gradients = self.scheduler.dial.gradients
            cost = self.ledger.step_bitops(widths, widths, gradients).total
            self._step_cost = (widths, cost, self.ledger.average_bits(widths))
        if isinstance(self.scheduler, CyclicPrecisionScheduler):
            state.lr_scale = self.scheduler.lr_scale
        state.values["bits"] = self._step_cost[2]
        self._batches_before = state.batch_in_epoch

    def after_step(self, state: TrainingState, output: TaskOutput) -> None:
        """Count the step (its batches are alike, on every process)."""
        batches = state.batch_in_epoch - self._batches_before
        examples = output.examples * batches * state.fabric.world_size
        self.bitops += self._step_cost[1] * examples
        self.bits_sum += self._step_cost[2]
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Position and running sums."""
        return {**self.scheduler.state_dict(), "bitops": self.bitops, "bits_sum": self.bits_sum}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a position and its sums."""
        self.scheduler.load_state_dict(state)
        self.bitops, self.bits_sum = float(state["bitops"]), float(state["bits_sum"])


class CycleCheckpoints(Hook):
    """Keeps the weights at the end of every cycle, as ``cycle-0007.pt``."""

    def __init__(self, folder: Path, cycle_length: int) -> None:
        self.folder, self.cycle_length = folder, cycle_length

    def after_step(self, state: TrainingState, output: TaskOutput) -> None:
        """Save at a boundary, from the first process."""
        cycle, position = divmod(state.step, self.cycle_length)
        if position == 0:
            weights = gathered(state.fabric, state.model.state_dict())
            if state.fabric.is_global_zero:
                content = io.BytesIO()
                torch.save(weights, content)
                write_atomically(self.folder / f"cycle-{cycle:04d}.pt", content.getvalue())


def train_phase(
    model: nn.Module,
    loaders: Loaders,
    scheduler: PrecisionScheduler,
    iterations: int,
    training: CyclicTrainingConfig,
    setup: PhaseSetup,
    *,
    ledger: Ledger,
    learning_rate: float | None = None,
    warmup_steps: int = 0,
    teacher: nn.Module | None = None,
    target_bits: float = 8,
) -> PhaseResult:
    """Train a quantized model in place for a number of steps while a scheduler turns its dial.

    Args:
        model: quantized.
        loaders: the data.
        scheduler: what turns the dial.
        iterations: optimizer steps.
        training: batch size, decay, accumulation, clipping, distillation.
        setup: devices and files.
        ledger: costs of the model, to count BitOps with.
        learning_rate: full rate; ``training.learning_rate`` if None.
        warmup_steps: steps of linear rise at the start.
        teacher: an unquantized model to follow when ``training.distillation_alpha`` is above 0.
        target_bits: width of the evaluations during training (they only go to the log).

    Raises:
        BitdialError: no data, or a loss that is not finite.
        RunInterrupted: stopped on request, after saving.
    """
    fabric = setup.fabric or make_fabric()
    task: Task = setup.task or Classification()
    scored = task
    if training.distillation_alpha > 0:
        if teacher is None:
            raise BitdialError(
                f"distillation_alpha is {training.distillation_alpha:g}, expected a teacher with it; "
                "pass teacher=..., or set distillation_alpha to 0"
            )
        task = Distillation(
            task, fabric.to_device(teacher), training.distillation_alpha, training.distillation_temperature
        )
    optimizer = build_optimizer(
        model,
        OptimizerConfig(
            learning_rate=training.learning_rate if learning_rate is None else learning_rate,
            weight_decay=training.weight_decay,
        ),
    )
    factor = learning_rate_factor(LearningRateConfig(warmup_steps=min(warmup_steps, iterations // 2)), iterations)
    hook = PrecisionHook(scheduler, ledger)
    hooks: list[Hook] = [hook]
    cycle_length = None
    if isinstance(scheduler, CyclicPrecisionScheduler) and scheduler.follows_config:
        cycle_length = scheduler.config.cycle_length
    if setup.cycle_checkpoints is not None and cycle_length is not None:
        hooks.append(CycleCheckpoints(setup.cycle_checkpoints, cycle_length))

    def evaluate(network: nn.Module) -> dict[str, float]:
        (score,) = sweep(
            network,
            loaders.test,
            [target_bits],
            recalibration_batches=loaders.recalibration,
            recalibration_limit=8,
            task=scored,
        )
        return {"accuracy": score.accuracy, "test_loss": score.loss}

    state = fit(
        fabric,
        model,
        optimizer,
        task,
        loaders.train,
        LoopConfig(
            steps=iterations,
            gradient_accumulation_steps=training.gradient_accumulation_steps,
            max_grad_norm=training.max_grad_norm,
            log_interval=training.log_interval,
            eval_interval=training.eval_interval,
            checkpoint_interval=setup.checkpoint_interval,
            checkpoint_epochs=None,
            checkpoint_best=False,
            compile=setup.compile,
        ),
        learning_rate=factor,
        precision=setup.precision or autocast_of(training.use_amp, fabric.device),
        evaluate=evaluate if training.eval_interval is not None else None,
        hooks=hooks,
        log=setup.log,
        checkpoints=setup.checkpoints,
        progress=setup.progress,
        resume=setup.resume,
        how_to_resume=setup.how_to_resume,
    )
    columns = state.history
    steps = [int(step) - 1 for step in columns["step"]]
    boundaries = list(range(0, iterations + 1, cycle_length)) if cycle_length is not None else []
    return PhaseResult(
        model=model,
        history=History(
            step=steps,
            loss=columns["loss"],
            bits=columns["bits"],
            learning_rate=columns["learning_rate"],
            cycle_boundaries=boundaries,
        ),
        bitops=hook.bitops,
        average_bits=hook.bits_sum / max(state.step, 1),
        seconds=state.seconds,
        iterations=state.step,
        precision_note=state.control.trouble(),
    )


def autocast_of(use_amp: bool, device: torch.device) -> MixedPrecisionConfig:
    """What ``use_amp`` means on a device: bfloat16 on a CPU, float16 with a loss scaler on a GPU."""
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    return MixedPrecisionConfig(dtype=dtype if use_amp else torch.float32)


def release_memory() -> None:
    """Give cached memory back between two configurations, never inside one."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def target_widths(widths: Iterable[float]) -> list[float]:
    """The widths that every arm is measured at: those given, and unquantized."""
    return sorted({*(float(width) for width in widths), 32.0})
