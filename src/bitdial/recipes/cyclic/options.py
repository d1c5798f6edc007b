"""Everything that can be set in a run of cyclic precision training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from bitdial.errors import BitdialError, suggest
from bitdial.layers.options import CyclicPrecisionConfig
from bitdial.options import Config, part
from bitdial.recipes.choices import Choices
from bitdial.recipes.options import ARM_NAME, BatchOptions, GridName, SharedConfig, Width, autocast_format, total_steps
from bitdial.training.options import DistillationOptions, EarlyStoppingOptions, StepOptions, ValidationOptions

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
    quantizer: GridName = "uniform"
    """Grids of weights and activations."""
    granularity: Literal["channel", "tensor"] | None = None
    """One weight range per output channel or per tensor; none: what the quantizer prefers."""


class ModelConfig(ModelOptions):
    """Which network, and how it is quantized."""

    name: str = "resnet20"
    """Network, by name: resnet20, resnet18, resnet74, mobilenetv2, timm/..., torchvision/..., and others."""


class TrainingOptions(StepOptions, DistillationOptions, EarlyStoppingOptions):
    """How the phases are trained, beyond what every recipe shares."""

    defaults = {"log_interval": 20}

    num_cpt_iterations: int = Field(400, ge=1)
    """Optimizer steps of the cyclic phase; also those of the baseline and of the ablations."""
    num_static_iterations: int = Field(100, ge=1)
    """Optimizer steps of each static fine-tune."""
    warmup_steps: int = Field(20, ge=0)
    """Steps over which the learning rate rises at the start of the cyclic phase."""
    use_amp: bool = False
    """Train under autocast: bfloat16 on a CPU, float16 with a loss scaler on a GPU."""
    eval_interval: int | None = Field(None, ge=1)
    """Steps between two evaluations while training: of what is held out, or of the test data for the log alone where
    nothing is. None: only at the end; with early stopping after each cycle."""


class CyclicTrainingConfig(TrainingOptions, BatchOptions):
    """How the phases are trained."""

    defaults = {"weight_decay": 5e-4}

    learning_rate: float = Field(0.1, gt=0)
    """Full learning rate of SGD with momentum .9; it falls along a cosine."""


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
            if not ARM_NAME.fullmatch(name):  # it becomes part of a folder's name
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


class CyclicConfig(TrainingOptions, ValidationOptions, SharedConfig):
    """Train while the precision cycles, fine-tune static configurations from the result, and compare them all."""

    defaults = {"weight_decay": 5e-4}

    model_options: ModelOptions = ModelOptions()
    """How the network is quantized."""
    cyclic: CyclicPrecisionConfig = CyclicPrecisionConfig()
    """How the precision moves."""
    static: StaticPrecisionConfig = StaticPrecisionConfig()
    """Which static configurations follow."""
    experiment: ExperimentOptions = ExperimentOptions()
    """What is compared and kept."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        """Fill in what follows from early stopping, so that config.yaml says what was done."""
        self.hold_out("early_stopping" if self.early_stopping else None)
        if self.early_stopping and self.eval_interval is None:  # at the same place of each cycle
            self.__dict__["eval_interval"] = self.cyclic.cycle_length
        return self

    @classmethod
    def fitted(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave out what would bend a profile, which is smooth by itself, where the user gives one."""
        bent = {f"cyclic.{name}" for name in ("smooth_transitions", "use_reverse_cycle", "progressive_cycles")}
        bent = bent if given.get("cyclic.profile") is not None else set()
        return {name: value for name, value in preset.items() if name not in bent}

    @property
    def root(self) -> Path:
        """Where run folders are numbered."""
        return Path(self.experiment.results_dir or "runs")

    @property
    def network(self) -> ModelConfig:
        """Name and options of the network in one."""
        return part(self.model_options, ModelConfig, name=self.model)

    def format_on(self, device_type: str) -> str:
        """The floating-point format, by ``precision`` or by ``use_amp``."""
        return autocast_format(device_type) if self.use_amp and self.precision == "float32" else self.precision

    def training(self, loader: Iterable[Any]) -> CyclicTrainingConfig:
        """The training options of the phases; ``steps`` and ``epochs`` count those of the cyclic phase."""
        shared = part(self, CyclicTrainingConfig)
        if self.steps is None and self.epochs is None:
            return shared
        return shared.model_copy(update={"num_cpt_iterations": total_steps(self, loader)})


PRESETS: dict[str, dict[str, Any]] = {
    "conservative": {
        "cyclic": {"bit_width_pattern": [8, 6, 4, 6, 8], "cycle_length": 40, "smooth_transitions": True},
    },
    "aggressive": {
        "cyclic": {"bit_width_pattern": [8, 2, 8, 2], "cycle_length": 10, "smooth_transitions": False},
    },
    "research": {
        "seeds": 3,
        "experiment": {"analyze_cycles": True, "save_cycle_checkpoints": True, "ablations": ["random_cycling"]},
    },
}
"""Name -> settings, written as in a YAML file: ``bitdial train cyclic conservative``."""
CHOICES = Choices(
    CyclicConfig,
    PRESETS,
    {
        "conservative": "Smooth, long cycles between 8 and 4 bits, for networks that are easily upset.",
        "aggressive": "Short cycles that jump between 8 and 2 bits.",
        "research": "Three seeds, an ablation with random cycling, the weights of every cycle.",
    },
)
