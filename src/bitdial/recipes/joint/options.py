"""Everything that can be set in a run of joint training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from bitdial.errors import BitdialError
from bitdial.models.names import variant_of
from bitdial.names import activation_quantizers, quantizers
from bitdial.recipes.choices import Choices
from bitdial.recipes.options import LEARNING_RATES, OWN, GridName, SharedConfig, Width
from bitdial.training.options import VALIDATION_FRACTION, OptimizerOptions, StepOptions, ValidationOptions

DEFAULT_STEPS = 240
PLAIN = "vanilla_single_precision_training"
AT_ONE_WIDTH = ("any_precision", "alternating", "matryoshka")
"""The methods in whose passes all layers are at one width, which suits batch norms of their own for each."""

TrainingMethod = Literal[
    "any_precision",
    "alternating",
    "joint_quantization",
    "sandwich",
    "matryoshka",
    "vanilla_single_precision_training",
]
if TYPE_CHECKING:
    WeightName = str
    ActivationName = str
else:  # whatever is registered can be chosen
    WeightName = Literal[tuple(quantizers())]
    ActivationName = Literal[activation_quantizers()]

_OWN = (
    "training_method", "bitwidth_options", "joint_quantization_batch_size", "loss_weights", "quantizer",
    "weight_quantizer", "activation_quantizer", "nested", "batch_norm", "skip_layers", "validation_function",
    "validation_bits", "validation_batch_norm", "validation_batches",
)  # fmt: skip
_CONFIGURATIONS = ("num_bitwidths", "number_of_configs", "num_configs")
_NESTINGS = ("quantization", "quantization.any_precision")


class JointConfig(OptimizerOptions, StepOptions, ValidationOptions, SharedConfig):
    """Train one network for many widths at once, show what each width costs in accuracy, and say which one to ship.

    Without --epochs or --steps it trains for 240 steps. A configuration file with the sections quantization and
    random_bitwidths is read as it is; other sections of such a file are listed and ignored.
    """

    defaults = {"log_interval": 20, "weight_decay": 5e-4, "validation_fraction": VALIDATION_FRACTION}
    aliases: ClassVar[Mapping[str, str]] = {
        **SharedConfig.aliases,
        "yaml_path": "config",
        **dict.fromkeys(_CONFIGURATIONS[:2], _CONFIGURATIONS[2]),
    }
    elsewhere: ClassVar[Mapping[str, str]] = {
        "quantization.enable": "quantize",
        **{f"{section}.{name}": name for section in _NESTINGS for name in _OWN},
        **{
            f"{section}random_bitwidths.{name}": "num_configs"
            for section in ("", *(f"{nesting}." for nesting in _NESTINGS))
            for name in _CONFIGURATIONS
        },
    }

    model_variant: str | None = None
    """Which network of a family, where --model names one: --model ResNet --model_variant resnet18."""
    gpu: Annotated[int, Field(ge=0)] | None = None
    """Which GPU to train on, by number; the same as --devices with a list of one."""
    strict: bool = False
    """Refuse sections of a configuration file that mean nothing here, instead of listing them."""

    quantize: bool = True
    """Quantize the network; off trains it unquantized."""
    quantization_method: Literal["any_precision"] = "any_precision"
    """One set of weights for many widths; how it is trained says training_method."""
    training_method: TrainingMethod = "joint_quantization"
    """What the passes of a step are. joint_quantization: widths drawn at random for every layer; any_precision: each
    width, which learns from the next wider one; alternating: one width, the next one in the next step; sandwich: the
    widest, the narrowest and two random ones; matryoshka: each width, nested in the widest;
    vanilla_single_precision_training: one pass, at the widest."""
    bitwidth_options: list[Width] = Field([2, 4, 8, 32], min_length=1)
    """Widths that are trained, drawn from, and measured at; 32: unquantized."""
    joint_quantization_batch_size: int = Field(2, ge=1)
    """joint_quantization: passes of a step, each with widths drawn anew for every layer."""
    loss_weights: list[Annotated[float, Field(ge=0)]] = []
    """matryoshka: weight of each width's loss, in the order of bitwidth_options; none given: all alike."""
    warmup_steps: int = Field(10, ge=0)
    """Steps over which the learning rate rises at the start."""

    quantizer: GridName = "uniform"
    """Grids of weights and activations."""
    weight_quantizer: WeightName | None = None
    """Another grid for weights; none: that of quantizer."""
    activation_quantizer: ActivationName | None = None
    """Another grid for activations; none: that of quantizer."""
    nested: bool | None = None
    """Weights of a width are the upper bits of those of a wider one, so that one packed file serves every width; none:
    with matryoshka, on the grid uniform."""
    batch_norm: Literal["per_width", "shared"] | None = None
    """Batch norm of its own for each width, or one for all; none: per_width for any_precision, alternating and
    matryoshka where the network has batch norms, else shared."""
    skip_layers: list[str] = ["<first>", "<last>"]
    """Names or patterns of layers left unquantized; <first> and <last> are the first layer and the classifier."""

    validation_function: Literal["random_bitwidths", "fixed_bitwidth", "simple"] = "random_bitwidths"
    """What is validated after each epoch: configurations with widths drawn for every layer; every layer at one width;
    the network as training left it."""
    num_configs: int = Field(4, ge=1)
    """random_bitwidths: configurations (also --num_bitwidths, --number_of_configs)."""
    validation_bits: Width | None = None
    """fixed_bitwidth: the width; none: the lowest of bitwidth_options."""
    validation_batch_norm: Literal["reestimate", "average"] = "reestimate"
    """Batch-norm statistics at validation: re-estimated for each configuration, or those of training, an average over
    its widths."""
    validation_batches: int = Field(2, ge=1)
    """Training batches that they are re-estimated from."""
    sensitivity: bool = True
    """At the end, measure what each layer alone costs at the narrowest width."""

    @field_validator("quantization_method", mode="before")
    @classmethod
    def _points_elsewhere(cls, given: object) -> object:
        """Names of other options are often meant to stand here."""
        for option, names in (("training_method", get_args(TrainingMethod)), ("quantizer", quantizers())):
            if given in names and given != "any_precision":
                raise BitdialError(
                    f"expected any_precision, got {given!r}, which is a {option.replace('_', ' ')}; "
                    f"write --{option} {given}"
                )
        return given

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        """Fill in what follows from other options, so that config.yaml says what was done."""
        own = self.__dict__
        if self.model != OWN:
            own["model"], own["model_variant"] = variant_of(self.model, self.model_variant), None
        if "lr" not in self.model_fields_set:
            own["lr"] = LEARNING_RATES[self.optimizer]
        if self.gpu is not None:
            if isinstance(self.devices, int) and self.devices != 1:
                raise BitdialError(f"gpu names one GPU, got {self.gpu} beside devices={self.devices}; give one of them")
            own["devices"], own["gpu"] = [self.gpu], None
        if self.epochs is None and self.steps is None:
            own["steps"] = DEFAULT_STEPS
        self.hold_out("early_stopping" if self.early_stopping else None)
        self._check_widths()
        return self

    @property
    def is_nested(self) -> bool:
        """Whether the weights of a width are the upper bits of those of a wider one."""
        grid = self.weight_quantizer or self.quantizer
        default = self.training_method == "matryoshka" and grid == "uniform"
        return grid == "nested" or (default if self.nested is None else self.nested)

    @property
    def has_norm_per_width(self) -> bool:
        """Whether each width gets batch norms of its own, where the network has any."""
        return (self.batch_norm or ("shared", "per_width")[self.training_method in AT_ONE_WIDTH]) == "per_width"

    def _check_widths(self) -> None:
        widths, method = self.bitwidth_options, self.training_method
        twice = sorted({width for width in widths if widths.count(width) > 1})
        if twice:
            raise BitdialError(f"bitwidth_options must be different widths, got {twice[0]:g} twice; remove one of them")
        if len(widths) == 1 and method != PLAIN and self.quantize:
            raise BitdialError(
                f"training_method {method} trains for several widths, got only {widths[0]:g} in bitwidth_options; "
                f"give more, e.g. 2 4 8 32, or --training_method {PLAIN}"
            )
        if self.loss_weights and method != "matryoshka":
            raise BitdialError(f"loss_weights belong to training_method matryoshka, got {method}; leave them out")
        if self.loss_weights and len(self.loss_weights) != len(widths):
            raise BitdialError(
                f"loss_weights must be one for each of the {len(widths)} bitwidth_options, got "
                f"{len(self.loss_weights)}; give them in the same order"
            )
        if self.loss_weights and not any(self.loss_weights):
            raise BitdialError("loss_weights must be above 0 for at least one width, got only zeros; 1 is usual")
        if self.validation_bits is not None and self.validation_function != "fixed_bitwidth":
            raise BitdialError(
                "validation_bits belong to validation_function fixed_bitwidth, got "
                f"{self.validation_function}; leave them out, or choose it"
            )


CHOICES = Choices(JointConfig)
