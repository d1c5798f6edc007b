"""Everything that can be set in a run of ternary training."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from bitdial.configuration.files import Loader
from bitdial.configuration.sentences import sentence
from bitdial.configuration.settings import Settings
from bitdial.data.options import AugmentationOptions
from bitdial.errors import BitdialError, suggest
from bitdial.names import is_recordings
from bitdial.recipes.choices import Choices
from bitdial.recipes.options import ARM_NAME, AUTO, LEARNING_RATES, SharedConfig, TernaryName, Width
from bitdial.training.options import (
    CopiedLogOptions,
    DistillationOptions,
    LongRunOptions,
    OptimizerOptions,
    ScheduleOptions,
    StepOptions,
    ValidationOptions,
)

DEFAULT_EPOCHS = 30
FLOAT = "none"
"""The quantizer that leaves weights as they are."""

POLICIES = ("autoaugment", "randaugment", "trivialaugment")
"""Ways to augment images that exclude each other."""

_SAME_FOR_ALL = frozenset(
    {
        "resume", "run_dir", "experiments", "seeds", "seed", "dataset", "data_path", "signals", "devices", "num_nodes",
        "strategy", "precision", "mixed_precision", "compile", "workers", "csv_log", "log", "log_interval",
        "validation_fraction", "start_from", "memory_limit",
        "limit_train", "limit_test",
    }
)  # fmt: skip
"""Options that belong to the run, not to one of its arms."""


class TernaryConfig(
    CopiedLogOptions,
    DistillationOptions,
    LongRunOptions,
    StepOptions,
    ScheduleOptions,
    OptimizerOptions,
    ValidationOptions,
    AugmentationOptions,
    SharedConfig,
):
    """Train ternary weights through a long run that can be stopped and resumed, and pack them.

    Without --epochs or --steps it trains for 30 epochs.
    """

    defaults = {
        "batch_size": 128,
        "weight_decay": 5e-4,
        "distillation_alpha": 0.5,
        "log_interval": 100,
        "early_stopping_patience": 40,
    }

    start_from: Path | None = None
    """A checkpoint or state dict (of the float network, say) whose weights a new run begins with."""

    quantizer: TernaryName = "twn"
    """How weights become -1, 0, 1 times a scale; none trains the unquantized network with the same recipe."""
    granularity: Literal["channel", "tensor"] | None = None
    """One scale per output channel or per tensor; none: what the quantizer prefers."""
    activation_bits: Width = 32
    """Width of the activations; 32: unquantized."""
    skip_layers: list[str] = ["<first>", "<last>"]
    """Names or patterns of layers left unquantized; <first> and <last> are the first layer and the classifier."""

    warmup_epochs: float | None = Field(None, ge=0)
    """Epochs over which the learning rate rises at the start; none: 5% of the run, 5 epochs at most."""
    lr_decay: float = Field(0.1, gt=0, le=1)
    """What the step scheduler multiplies the learning rate with at each milestone."""
    label_smoothing: float = Field(0.0, ge=0, le=0.2)
    """Share of each label that is spread over the classes."""
    teacher: Path | None = None
    """Finished run of the unquantized network to learn from (its folder, from --quantizer none)."""

    monitor: Literal["accuracy", "loss"] = "accuracy"
    """Which validation score tells the best weights and feeds early stopping."""
    early_stopping_mode: Literal["max", "min"] | None = None
    """Whether a larger or a smaller score is better; none: max for accuracy, min for loss."""

    save_freq: int = Field(20, ge=1)
    """Epochs between two checkpoints; the best, the last and that of Ctrl-C are saved besides."""
    keep_last_n: int = Field(3, ge=1)
    """How many of the newest checkpoints to keep."""
    keep_best: int | None = Field(None, ge=0)
    """How many of the best checkpoints to keep, the best of which is shipped; none: 1, or 0 without validation images;
    0: the last weights are shipped."""

    experiments: dict[str, dict[str, Any]] = {}
    """Several experiments in one run: name -> the options that set it apart; all are compared in one table."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        """Fill in what follows from other options, so that config.yaml says what was done."""
        own = self.__dict__
        if self.epochs is None and self.steps is None:
            own["epochs"] = DEFAULT_EPOCHS
        if "lr" not in self.model_fields_set:
            own["lr"] = LEARNING_RATES[self.optimizer]
        keeps = self.keep_best or (self.keep_best is None and self.validation_fraction != 0)
        self.hold_out("early_stopping" if self.early_stopping else f"keep_best {self.keep_best}" if keeps else None)
        if self.keep_best is None:
            own["keep_best"] = int(self.holds_out)
        self._check_choices()
        for name in self.experiments:
            self._experiment(name)
        return self

    def _check_choices(self) -> None:
        mode = self.monitor_mode
        if self.early_stopping_mode not in (None, mode):
            raise BitdialError(
                f"early_stopping_mode must be {mode} while {self.monitor} is monitored, got "
                f"{self.early_stopping_mode}; "
                f"give --monitor {'loss' if mode == 'max' else 'accuracy'} with it, or leave it out"
            )
        policies = [name for name in POLICIES if getattr(self, name)]
        if len(policies) > 1:
            raise BitdialError(f"{' and '.join(policies)} exclude each other, got both; give only one of them")
        if self.epochs is not None and (self.warmup_epochs or 0) >= self.epochs and self.scheduler != "none":
            raise BitdialError(
                f"warmup_epochs must be below the {self.epochs} epochs of the run, got {self.warmup_epochs:g}"
            )
        if self.teacher is not None and self.quantizer == FLOAT and self.activation_bits == 32:
            raise BitdialError("teacher needs a quantized student, got quantizer none; leave one of the two out")

    @classmethod
    def fitted(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Scale the warm-up with the length, and leave out what the user's choice rules out."""
        kept = dict(preset)
        if is_recordings(str(given.get("dataset"))):
            kept = {name: value for name, value in kept.items() if name not in AugmentationOptions.model_fields}
        if given.get("steps") is not None:
            kept.pop("warmup_epochs", None)
        epochs, before = given.get("epochs"), preset.get("epochs")
        if isinstance(epochs, int) and before and "warmup_epochs" in kept:
            kept["warmup_epochs"] = kept["warmup_epochs"] * min(1.0, epochs / before)
        if given.get("validation_fraction") == 0:
            kept.pop("early_stopping", None)
        if any(given.get(policy) for policy in POLICIES):
            kept = {name: value for name, value in kept.items() if name not in POLICIES}
        return kept

    @property
    def monitor_mode(self) -> Literal["max", "min"]:
        """Whether a larger or a smaller monitored score is better."""
        return "max" if self.monitor == "accuracy" else "min"

    @property
    def is_float(self) -> bool:
        """Whether the weights stay unquantized."""
        return self.quantizer == FLOAT

    def each_arm(self) -> dict[str, TernaryConfig]:
        """Name -> options of every experiment; without any named, this configuration itself."""
        if not self.experiments:
            return {"float" if self.is_float else "ternary": self}
        return {name: self._experiment(name) for name in self.experiments}

    def _experiment(self, name: str) -> TernaryConfig:
        if not ARM_NAME.fullmatch(name):  # it becomes part of file names
            raise BitdialError(f"an experiment's name must hold only letters, digits, '_', '-' and '.', got {name!r}")
        own = self.experiments[name]
        for option in own:
            if option in _SAME_FOR_ALL:
                raise BitdialError(f"experiments.{name}: {option} is the same for all; set it outside of experiments")
            if option not in type(self).model_fields:
                raise BitdialError(
                    f"experiments.{name}: unknown setting '{option}'{suggest(option, type(self).model_fields)}"
                )
        if own.get("batch_size") == AUTO:
            raise BitdialError(
                f"experiments.{name}: batch_size auto is the same for all; set it outside of experiments"
            )
        values = {**self.model_dump(exclude={"experiments"}), **own}
        if "optimizer" in own and "lr" not in own:
            del values["lr"]
        for given, other in (("steps", "epochs"), ("epochs", "steps")):
            if own.get(given) is not None:
                values[other] = None
        try:
            return TernaryConfig.model_validate(values)
        except ValidationError as failure:
            error = failure.errors(include_url=False)[0]
            place = ".".join(map(str, ("experiments", name, *error["loc"])))
            raise BitdialError(f"{place}: {sentence(error, Settings(TernaryConfig))}") from None


ORDER = ("fresh", "resume", "conservative", "regularized", "quick", "autoaugment", "compare")


def read_presets() -> dict[str, Mapping[str, Any]]:
    """Name -> settings, as in a file given with ``--config``."""
    return {name: yaml.load(_text(name), Loader=Loader) or {} for name in ORDER}


def summaries() -> dict[str, str]:
    """Name -> what a preset is for, in a line."""
    return {name: _text(name).split("\n", 1)[0].lstrip("# ") for name in ORDER}


def _text(name: str) -> str:
    return resources.files(__package__).joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")


PRESETS = read_presets()
CHOICES = Choices(TernaryConfig, PRESETS, summaries())
