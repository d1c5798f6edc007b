"""The options that every recipe shares, and the base class of every group of options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bitdial.errors import BitdialError

_OTHER_NAMES = {
    "32-true": "float32", "32": "float32", "fp32": "float32",
    "bf16-mixed": "bfloat16", "bf16": "bfloat16",
    "16-mixed": "float16", "16": "float16", "fp16": "float16",
    "fp8": "float8",
}  # fmt: skip
"""What Lightning, and habit, call the formats."""

Precision = Annotated[
    Literal["float32", "bfloat16", "float16", "float8", "auto"],
    BeforeValidator(lambda value: _OTHER_NAMES.get(str(value), value)),
]


class Config(BaseModel):
    """Base of every configuration: unknown keys are refused, and assignments are validated too.

    The docstring under each field is its documentation, in Python and in ``--help``.
    """

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, validate_default=True, use_attribute_docstrings=True
    )

    aliases: ClassVar[Mapping[str, str]] = {}
    """Second names that flags and YAML keys of this model may use, each with the field it stands for."""

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Sets of fields of which at most one may have a value; the one given last (preset, file, flags) wins."""

    def __setattr__(self, name: str, value: Any) -> None:
        values, given = dict(self.__dict__), set(self.__pydantic_fields_set__)
        try:
            super().__setattr__(name, value)
        except ValidationError:  # pydantic leaves in place what only a validator of the whole model refused
            object.__setattr__(self, "__dict__", values)
            object.__setattr__(self, "__pydantic_fields_set__", given)
            raise

    @model_validator(mode="after")
    def _at_most_one_of_a_set(self) -> Config:
        for names in self.exclusive:
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) > 1:
                raise BitdialError(f"{' and '.join(given)} exclude each other, got both; give only one of them")
        return self


class MixedPrecisionOptions(Config):
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
    """float16: the scale never falls below this."""
    use_dynamic_loss_scaling: bool = True
    """float16: let the scale move."""
    memory_efficient: bool = True
    """Free gradients after each step instead of overwriting them with zeros."""
    overflow_patience: int = Field(10, ge=1)
    """Steps in a row that may be lost before a wider format is taken, or the run stops."""
    recovery_interval: int = Field(2000, ge=1)
    """Applied steps in a row after which the format asked for is tried again."""
    policies: dict[str, str | dict[int, str]] = {}
    """Layers with a format of their own: name or pattern -> format, or -> {step: format, ...}."""


class SharedConfig(Config):
    """What every recipe takes: the model, the data, the length of training, the machine.

    A recipe subclasses this, gives fields better defaults, and adds its own groups as nested `Config` models.
    """

    aliases: ClassVar[Mapping[str, str]] = {"learning_rate": "lr"}
    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("epochs", "steps"),)

    model: str = "resnet20"
    """Network to train, by name."""

    dataset: str = "digits"
    """Data set to train on, by name."""

    data_path: Path | None = None
    """Folder that holds the data set (or into which it is downloaded)."""

    epochs: int | None = Field(None, ge=1)
    """Passes over the training data; give this or --steps."""

    steps: int | None = Field(None, ge=1)
    """Optimizer steps; give this or --epochs."""

    batch_size: int = Field(64, ge=1)
    """Examples in one step, over all devices."""

    lr: float = Field(0.1, gt=0, le=1e6)
    """Learning rate (also --learning_rate)."""

    weight_decay: float = Field(1e-4, ge=0, le=1e6)
    """L2 penalty on the weights."""

    seeds: int = Field(1, ge=1)
    """How many random seeds: everything is repeated for each, and results carry an interval from two on."""

    seed: int = Field(0, ge=0, lt=2**32)
    """The first seed; further ones count up from it."""

    precision: Precision = "float32"
    """Floating-point format of the arithmetic, under the quantization; auto: the narrowest that the device is good at.
    Takes a wider one by itself where numbers overflow again and again."""

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

    resume: bool | Path = False
    """Go on from the newest sound checkpoint, of the newest run or of the run folder named."""

    run_dir: Path | None = None
    """Folder of this run; default: the next free runs/RECIPE-N."""

    workers: int = Field(0, ge=0)
    """Processes that load data; 0 loads in the main process."""
