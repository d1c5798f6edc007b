"""The options of training's parts: each is declared here once, and recipes inherit or nest them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from bitdial.errors import BitdialError
from bitdial.options import Config

FORMAT_NAMES = {
    "32-true": "float32", "32": "float32", "fp32": "float32", "float": "float32",
    "bf16-mixed": "bfloat16", "bf16": "bfloat16",
    "16-mixed": "float16", "16": "float16", "fp16": "float16", "half": "float16",
    "fp8": "float8", "float8_e4m3fn": "float8",
}  # fmt: skip
"""What Lightning, torch and habit call the floating-point formats."""

Precision = Annotated[
    Literal["float32", "bfloat16", "float16", "float8", "auto"],
    BeforeValidator(lambda value: FORMAT_NAMES.get(str(value), value)),
]


class LengthOptions(Config):
    """How long to train."""

    epochs: int | None = Field(None, ge=1)
    """Passes over the training data; give this or --steps."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps; give this or --epochs."""


class StepOptions(Config):
    """What makes a step, and how often one is told of."""

    gradient_accumulation_steps: int = Field(1, ge=1)
    """Batches whose gradients make one step; the last step of an epoch takes what is left."""
    max_grad_norm: float | None = Field(None, gt=0, allow_inf_nan=True)  # inf: only measured
    """Clip the gradient to this norm; none: never."""
    log_interval: int = Field(50, ge=1)
    """Steps between two rows of the log; every epoch has one in any case."""


class LongRunOptions(Config):
    """What a long run wants besides."""

    checkpoint_interval: int | None = Field(None, ge=1)
    """Steps between two checkpoints, besides those by epochs; none: only by epochs."""
    ema_decay: float | None = Field(None, ge=0, lt=1)
    """Average the weights with this decay (.999 is usual), and measure and keep the average; none: no average."""


class LoopConfig(LengthOptions, StepOptions, LongRunOptions):
    """How long to train, and what to do between the steps. A step is an optimizer step.

    With `steps` and `epochs` the run ends at whichever is reached first. A row of the log is when the loss is looked
    at, and the device waited for. A checkpoint is always written at the end and on Ctrl-C, besides.
    """

    eval_interval: int | None = Field(default=None, ge=1)
    """Steps between two evaluations; None: after every epoch."""
    checkpoint_epochs: int | None = Field(default=1, ge=1)
    """Epochs between two checkpoints; None: only by steps."""
    checkpoint_best: bool = True
    """Write a checkpoint whenever an evaluation is the best so far, too."""
    history_interval: int = Field(default=1, ge=1)
    """Steps between two entries of the history that cycle analysis and plots read."""
    monitor: str = "accuracy"
    """Which score of an evaluation tells the best model and feeds early stopping."""
    monitor_mode: Literal["max", "min"] = "max"
    """Whether a larger (accuracy) or a smaller (loss) score is better."""
    stop_check_interval: int = Field(default=10, ge=1)
    """With several processes: steps between two agreements on whether Ctrl-C was pressed. One process always looks."""
    compile: bool = False
    """Compile the model with torch.compile before training."""

    @model_validator(mode="after")
    def _has_an_end(self) -> LoopConfig:
        if self.steps is None and self.epochs is None:
            raise ValueError("give steps or epochs: a run needs an end")
        return self

    def total_steps(self, batches_per_epoch: int | None) -> int | None:
        """Return the number of steps, given one process's loader's length; None where that is needed and unknown."""
        if self.epochs is None or batches_per_epoch is None:
            return self.steps
        by_epochs = self.epochs * -(-batches_per_epoch // self.gradient_accumulation_steps)
        return by_epochs if self.steps is None else min(self.steps, by_epochs)


class OptimizerOptions(Config):
    """Which optimizer moves the weights."""

    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    """sgd with momentum; adamw; muon for the matrices of hidden layers, with adamw for all else."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd and muon."""
    nesterov: bool = False
    """Nesterov's form of the momentum of sgd."""
    decay_norm_and_bias: bool = True
    """Decay norms, biases and learned scales (parameters of less than two dimensions) too."""


class ScheduleOptions(Config):
    """The shape of the learning rate over a run."""

    scheduler: Literal["cosine", "step", "none", "onecycle"] = "cosine"
    """Learning rate: half a cosine, drops at the milestones, constant, or one cycle."""
    milestones: list[float] = [0.5, 0.75]
    """Where the step scheduler drops: below 1 a share of the run, from 1 on an optimizer step."""


class EarlyStoppingOptions(Config):
    """Ending before the length of a run is reached."""

    early_stopping: bool = False
    """Stop when the score on what is held out has not improved for a while."""
    early_stopping_patience: int = Field(10, ge=1)
    """Evaluations without improvement that are borne, one an epoch unless a recipe says otherwise."""
    early_stopping_min_delta: float = Field(0.0, ge=0)
    """How much better than the best a score must be to count as an improvement."""


VALIDATION_FRACTION = 0.1
"""What is held out where something is chosen by it, and the user says nothing."""


class ValidationOptions(EarlyStoppingOptions):
    """What is held out of the training data, and what goes by it."""

    validation_fraction: float | None = Field(None, ge=0, lt=1)
    """Share of the training data held out to evaluate and choose by in training; 0: nothing is chosen then; none: .1
    where something is (early stopping, the best weights), else 0."""

    @property
    def holds_out(self) -> bool:
        """Whether some training data are held out for validation."""
        return bool(self.validation_fraction)

    def hold_out(self, chooser: str | None) -> None:
        """Fill in the share that is held out for an option that chooses, if there is one.

        Raises:
            BitdialError: it is 0, though something is to be chosen.
        """
        if self.validation_fraction is None:
            self.__dict__["validation_fraction"] = VALIDATION_FRACTION if chooser else 0.0
        if chooser and not self.holds_out:
            raise BitdialError(
                f"validation_fraction must be above 0 for {chooser}, got 0: nothing is chosen by looking at test "
                f"data; hold some data out ({VALIDATION_FRACTION:g} is usual), or leave {chooser} out"
            )


class DistillationOptions(Config):
    """Learning from another network's predictions."""

    distillation_alpha: float = Field(0.0, ge=0, le=1)
    """Share of the loss that follows an unquantized teacher, where there is one; 0: no distillation."""
    distillation_temperature: float = Field(4.0, gt=0)
    """Temperature of teacher and student."""


class CopiedLogOptions(Config):
    """A second log."""

    csv_log: Path | None = None
    """Write the log to this CSV file too."""


class ScaleOptions(Config):
    """How a narrow floating-point format is kept from losing gradients."""

    init_scale: float = Field(2.0**16, gt=0, le=2.0**100)
    """float16: what the loss is multiplied with at first."""
    growth_factor: float = Field(2.0, gt=1, le=2.0**16)
    """float16: factor on the scale after growth_interval steps without an overflow."""
    backoff_factor: float = Field(0.5, gt=0, lt=1)
    """float16: factor on the scale after an overflow."""
    growth_interval: int = Field(2000, ge=1)
    """float16: applied steps in a row between two growths of the scale."""
    min_scale: float = Field(1.0, ge=1e-30)
    """float16: the scale never falls below this; overflows there mean that float16 is too narrow."""
    use_dynamic_loss_scaling: bool = True
    """float16: let the scale move."""
    memory_efficient: bool = True
    """Free gradients after each step instead of overwriting them with zeros."""
    overflow_patience: int = Field(10, ge=1)
    """Steps in a row that may be lost before a wider format is taken, or the run stops."""
    recovery_interval: int = Field(2000, ge=1)
    """Applied steps in a row after which the format asked for is tried again; doubled each time that fails."""

    @model_validator(mode="after")
    def _scale_above_its_floor(self) -> ScaleOptions:
        if self.min_scale > self.init_scale:
            raise BitdialError(
                f"min_scale must be at most init_scale, got {self.min_scale:g} above {self.init_scale:g}; lower it"
            )
        return self


class MixedPrecisionOptions(ScaleOptions):
    """How a narrow format is kept from losing gradients, and layers with a format of their own."""

    policies: dict[str, str | dict[int, str]] = {}
    """Layers with a format of their own: name or pattern -> format, or -> {step: format, ...}."""


class DeviceOptions(Config):
    """Where a run computes, and in which format."""

    precision: Precision = "float32"
    """Floating-point format of the arithmetic, under the quantization; auto: the one whose products are timed as
    clearly the fastest on the device. Takes a wider one by itself where numbers overflow again and again."""
    mixed_precision: MixedPrecisionOptions = MixedPrecisionOptions()
    """How a narrow format is kept from losing gradients."""
    devices: int | list[int] | Literal["auto"] = "auto"
    """How many devices, or which ones by number."""
    num_nodes: int = Field(1, ge=1)
    """Machines that train together."""
    strategy: str = "auto"
    """How devices share the work. ddp (or auto): each holds the whole model; fsdp: each holds a part of the weights,
    gradients and optimizer state."""
    compile: bool = False
    """Compile the model with torch.compile: a slow first step, faster ones after."""
