"""Everything that can be set in a run of cyclic precision training."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from bitdial import schedules
from bitdial.configuration import Config, SharedConfig
from bitdial.errors import BitdialError, suggest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

Width = Annotated[float, Field(ge=1, le=32)]
StaticBits = float | list[float] | Literal["progressive"]
"""One width, a list that alternates over the layers, or widths that step down over the iterations."""


class ModelOptions(Config):
    """How the network is quantized."""

    bit_widths: list[Width] = Field([2, 4, 8, 16], min_length=1)
    """Target widths: every arm is measured at each, and unquantized."""
    default_bit_width: Width = 8
    """The width at which the cyclic model ships."""
    skip_layers: list[str] = ["<first>", "<last>"]
    """Names or patterns of layers kept at 32 bits; <first> and <last> are the first layer and the classifier."""
    quantizer: Literal["uniform", "dorefa"] = "uniform"
    """Grids of weights and activations."""
    granularity: Literal["channel", "tensor"] | None = None
    """One weight range per output channel or per tensor; none: what the quantizer prefers."""


class ModelConfig(ModelOptions):
    """Which network, and how it is quantized."""

    name: str = "resnet20"
    """Network, by name: resnet20, resnet18, resnet74, mobilenetv2, timm/..., torchvision/..., and others."""


class TrainingOptions(Config):
    """How the phases are trained, beyond what every recipe shares."""

    num_cpt_iterations: int = Field(400, ge=1)
    """Optimizer steps of the cyclic phase; also those of the baseline and of the ablations."""
    num_static_iterations: int = Field(100, ge=1)
    """Optimizer steps of each static fine-tune."""
    warmup_steps: int = Field(20, ge=0)
    """Steps over which the learning rate rises at the start of the cyclic phase."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Batches whose gradients make one step."""
    max_grad_norm: float | None = Field(None, gt=0)
    """Clip the gradient to this norm; none: never."""
    use_amp: bool = False
    """Train under autocast: bfloat16 on a CPU, float16 with a loss scaler on a GPU."""
    distillation_alpha: float = Field(0.0, ge=0, le=1)
    """Share of the loss that follows an unquantized teacher; 0: no distillation."""
    distillation_temperature: float = Field(4.0, gt=0)
    """Temperature of teacher and student."""
    eval_interval: int | None = Field(None, ge=1)
    """Steps between two looks at the test accuracy while training, for the log; none: only at the end."""
    log_interval: int = Field(20, ge=1)
    """Steps between two rows of the log."""


class CyclicTrainingConfig(TrainingOptions):
    """How the phases are trained."""

    batch_size: int = Field(64, ge=1)
    """Examples in one batch, over all devices."""
    learning_rate: float = Field(0.1, gt=0)
    """Full learning rate of SGD with momentum .9; it falls along a cosine."""
    weight_decay: float = Field(5e-4, ge=0, le=1e6)
    """L2 penalty on the weights."""
    seed: int = Field(0, ge=0)
    """Seed of the first run; further seeds count up from it."""


class CyclicPrecisionConfig(Config):
    """How the precision moves in the cyclic phase."""

    cycle_length: int = Field(20, ge=1)
    """Iterations of one cycle."""
    bit_width_pattern: list[Width] = Field([8, 4, 2, 4, 8], min_length=1)
    """Widths of one cycle, stretched evenly over it."""
    profile: str | None = None
    """A continuous form instead of the pattern, between its lowest and highest width: cosine_repeated (CPT's own),
    cosine_triangular, linear_*, exponential_*, rex_*."""
    use_reverse_cycle: bool = False
    """Run every second cycle of the pattern backwards."""
    smooth_transitions: bool = False
    """Move linearly from one entry of the pattern to the next, through fractional widths."""
    transition_steps: int = Field(2, ge=1)
    """Iterations that such a move takes."""
    layer_wise_cycling: bool = False
    """Let layer i read the schedule i x offset iterations ahead."""
    layer_cycle_offset: int = Field(2, ge=0)
    """The offset between neighbouring layers, in iterations."""
    adjust_lr_with_bits: bool = False
    """Scale the learning rate with the width."""
    lr_scale_factors: dict[Width, float] = {2: 0.5, 4: 0.75, 8: 1.0, 16: 1.0}
    """Width -> factor on the learning rate, interpolated in between."""
    progressive_cycles: bool = False
    """Lower the widths from cycle to cycle, down to the lowest of the pattern."""
    progression_rate: float = Field(0.9, gt=0, le=1)
    """Factor on the widths from one cycle to the next, when progressive."""
    gradient_bits: Width = 32
    """Width of the gradients that flow back (stochastic rounding); 32: unquantized."""

    @field_validator("lr_scale_factors")
    @classmethod
    def _has_factors(cls, value: dict[float, float]) -> dict[float, float]:
        if not value or min(value.values()) <= 0:
            raise BitdialError(f"lr_scale_factors must map widths to factors above 0, got {value}")
        return value

    @model_validator(mode="after")
    def _can_be_scheduled(self) -> CyclicPrecisionConfig:
        if self.profile is not None and (self.use_reverse_cycle or self.smooth_transitions or self.progressive_cycles):
            raise BitdialError(
                f"profile '{self.profile}' is already continuous; turn off use_reverse_cycle, smooth_transitions and "
                "progressive_cycles, or give bit_width_pattern alone"
            )
        self.schedule()
        return self

    def schedule(self) -> schedules.Schedule:
        """The schedule of a layer without offset, ``step -> width``."""
        if self.profile is not None:
            low, high = min(self.bit_width_pattern), max(self.bit_width_pattern)
            return schedules.profile(self.profile, low, high, self.cycle_length, 1)
        return schedules.pattern(
            self.bit_width_pattern,
            self.cycle_length,
            reverse=self.use_reverse_cycle,
            smooth=self.smooth_transitions,
            transition_steps=self.transition_steps,
            progressive=self.progressive_cycles,
            progression_rate=self.progression_rate,
        )

    def layer_schedule(self) -> schedules.LayerSchedule:
        """The schedule of every layer, ``(step, layer) -> width``."""
        return schedules.per_layer(self.schedule(), self.layer_cycle_offset if self.layer_wise_cycling else 0)


class StaticPrecisionConfig(Config):
    """The static configurations that are fine-tuned from the cyclic model."""

    test_configurations: dict[str, StaticBits] = {
        "2bit": 2,
        "4bit": 4,
        "8bit": 8,
        "mixed_2_4": [2, 4],
        "mixed_4_8": [4, 8],
    }
    """Name -> width, or a list that alternates over the layers, or "progressive"."""
    finetune_lr_scale: float = Field(0.5, gt=0)
    """Factor on the learning rate while fine-tuning."""
    compare_to_baseline: bool = True
    """Train an unquantized model for the same iterations, too."""

    @field_validator("test_configurations")
    @classmethod
    def _can_be_named_and_trained(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, bits in value.items():
            if not _NAME.fullmatch(name):  # it becomes part of a folder's name
                raise BitdialError(
                    f"a name in test_configurations must hold only letters, digits, '_', '-' and '.', got {name!r}"
                )
            if bits == []:
                raise BitdialError(f"test_configurations.{name} must list at least one width, got an empty list")
            for width in () if bits == "progressive" else bits if isinstance(bits, list) else [bits]:
                if not 1 <= width <= 32:
                    raise BitdialError(f"widths of test_configurations.{name} must be in [1, 32], got {width:g}")
        return value


Ablation = Literal["no_cycling", "fixed_pattern", "random_cycling", "layer_independent"]
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)


class ExperimentOptions(Config):
    """What is compared and kept."""

    experiment_name: str = "cyclic"
    """Name of the experiment in results and report."""
    ablations: dict[Ablation, bool] | list[Ablation] = dict.fromkeys(ABLATIONS, False)
    """Further arms: the names of those that are on, or every name with true or false. no_cycling (held at the default
    width), fixed_pattern (the bare pattern, nothing smooth, reversed or progressive), random_cycling (the same widths
    in random order), layer_independent (layers at random offsets)."""
    analyze_cycles: bool = True
    """Analyse the loss cycle by cycle."""
    plot_metrics: bool = True
    """Draw the plots."""
    save_cycle_checkpoints: bool = False
    """Keep the weights at the end of every cycle."""
    results_dir: str | None = None
    """Folder in which run folders are numbered; default: runs."""

    @field_validator("ablations")
    @classmethod
    def _as_mapping(cls, value: dict[Ablation, bool] | list[Ablation]) -> dict[Ablation, bool]:
        """Every ablation with whether it is on, so that ``config.ablations["no_cycling"] = True`` switches one on."""
        on = value if isinstance(value, dict) else dict.fromkeys(value, True)
        return {name: on.get(name, False) for name in ABLATIONS}

    @property
    def ablations_on(self) -> list[Ablation]:
        """The names of those that are on.

        Raises:
            BitdialError: one was switched on that does not exist.
        """
        chosen = dict.fromkeys(self.ablations, True) if isinstance(self.ablations, list) else self.ablations
        for name in chosen:
            if name not in ABLATIONS:
                known = ", ".join(ABLATIONS)
                raise BitdialError(f"ablations must be of {known}, got {name!r}{suggest(str(name), ABLATIONS)}")
        return [name for name in ABLATIONS if chosen.get(name, False)]


class ExperimentConfig(ExperimentOptions):
    """What is compared and kept, and how often."""

    seeds: int = Field(1, ge=1)
    """How many seeds: everything is repeated for each, and results carry an interval from two on."""


class CyclicConfig(SharedConfig, TrainingOptions):
    """Train while the precision cycles, fine-tune static configurations from the result, and compare them all."""

    batch_size: int = Field(64, ge=1)
    """Examples in one batch, over all devices."""
    weight_decay: float = Field(5e-4, ge=0, le=1e6)
    """L2 penalty on the weights."""
    model_options: ModelOptions = ModelOptions()
    """How the network is quantized."""
    cyclic: CyclicPrecisionConfig = CyclicPrecisionConfig()
    """How the precision moves."""
    static: StaticPrecisionConfig = StaticPrecisionConfig()
    """Which static configurations follow."""
    experiment: ExperimentOptions = ExperimentOptions()
    """What is compared and kept."""

    @property
    def network(self) -> ModelConfig:
        """Name and options of the network in one."""
        return ModelConfig(name=self.model, **self.model_options.model_dump())

    def training(self, batches_per_epoch: int) -> CyclicTrainingConfig:
        """The training options of the phases; ``steps`` and ``epochs`` count those of the cyclic phase."""
        shared = {name: getattr(self, name) for name in TrainingOptions.model_fields}
        if self.steps is not None:
            shared["num_cpt_iterations"] = self.steps
        elif self.epochs is not None:
            per_epoch = -(-batches_per_epoch // self.gradient_accumulation_steps)
            shared["num_cpt_iterations"] = self.epochs * per_epoch
        return CyclicTrainingConfig(
            **shared,
            batch_size=self.batch_size,
            learning_rate=self.lr,
            weight_decay=self.weight_decay,
            seed=self.seed,
        )
