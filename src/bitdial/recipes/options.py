"""The options that every recipe shares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from bitdial.data.options import SignalOptions
from bitdial.errors import BitdialError
from bitdial.layers.options import Width as Width
from bitdial.names import DATASETS, NETWORKS, RECORDINGS, SIGNAL_NETWORKS, is_recordings, quantizers
from bitdial.options import Config
from bitdial.own_files import absolute
from bitdial.training.options import DeviceOptions, LengthOptions
from bitdial.training.trackers import TrackerName

AUTO = "auto"
"""The batch size that is found by measuring."""


def _size_of_batch(given: Any) -> Any:
    """Refuse what is neither a whole number from 1 up nor "auto", in one sentence."""
    number = int(given) if isinstance(given, str) and given.strip().isdecimal() else given
    whole = isinstance(number, int | float) and not isinstance(number, bool) and float(number).is_integer()
    if given != AUTO and (not whole or number < 1):
        raise BitdialError(f"expected a whole number from 1 up or 'auto', got {given!r:.40}; 64 is usual")
    return number


OwnPlace = Annotated[str, AfterValidator(absolute)]
"""A name, or a function in a file, which is then found from any folder."""

if TYPE_CHECKING:
    GridName = str
    TernaryName = str
    BatchSize = int
else:  # whatever is registered can be chosen, and help lists it
    GridName = Literal[tuple(name for name, ternary in quantizers().items() if ternary is None)]
    TernaryName = Literal[*(name for name, ternary in quantizers().items() if ternary), "none"]
    BatchSize = Annotated[int | Literal["auto"], BeforeValidator(_size_of_batch)]

NETWORK_HELP = (
    f"Network, by name: {', '.join(NETWORKS)}, torchvision/NAME, timm/NAME or file.py:function; for recordings "
    f"{' or '.join(SIGNAL_NETWORKS)}, the former if none is given."
)
DATASET_HELP = (
    f"Data set, by name: {', '.join(DATASETS)}, hf:NAME (of the Hugging Face Hub) or file.py:function; "
    f"{' and '.join(RECORDINGS)} hold recordings."
)
OWN = "(own)"
"""What options call a network or data that a script brought."""
BROUGHT = (
    "{}, got one that a script brought; go on from Python: bitdial.run(RECIPE, model=..., data=..., resume=FOLDER)"
)
"""What a command line is told of such a network."""
LEARNING_RATES = {"sgd": 0.1, "adamw": 1e-3, "muon": 1e-3}
"""Optimizer -> learning rate, where the user says nothing."""
ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What an arm may be called: it becomes part of the names of files."""


class BatchOptions(Config):
    """What a batch is, and what is drawn."""

    batch_size: int = Field(64, ge=1)
    """Examples in one step, over all devices."""
    weight_decay: float = Field(1e-4, ge=0, le=1e6)
    """L2 penalty on the weights."""
    seed: int = Field(0, ge=0, lt=2**32)
    """The first seed; further ones count up from it."""


class WorkOptions(Config):
    """What is learned."""

    model: OwnPlace = Field("resnet20", description=NETWORK_HELP, examples=[*NETWORKS, SIGNAL_NETWORKS[0]])
    dataset: OwnPlace = Field("digits", description=DATASET_HELP, examples=[*DATASETS, *RECORDINGS])
    data_path: Path | None = None
    """Folder that holds the data set (or into which it is downloaded)."""
    signals: SignalOptions = SignalOptions()
    """What is taken of recordings, such as those of vehicles."""

    @model_validator(mode="after")
    def _network_fits_data(self) -> Self:
        if is_recordings(self.dataset) and "model" not in self.model_fields_set:  # the default is one for images
            self.__dict__["model"] = SIGNAL_NETWORKS[0]
        return self


class ChangedDataOptions(Config):
    """What to do about data that is not what it was."""

    accept_changed_data: bool = False
    """Go on though the run's data has changed, with what is left of it; each example stays in its part."""


class RunOptions(DeviceOptions, BatchOptions, LengthOptions, ChangedDataOptions):
    """What every run takes, whatever is learned: the length of training, the machine, what a run goes on from.

    A recipe subclasses this together with the options of the parts that it uses, gives fields other defaults, and adds
    its own groups as nested `Config` models.
    """

    aliases: ClassVar[Mapping[str, str]] = {"learning_rate": "lr"}
    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("epochs", "steps"),)

    batch_size: BatchSize = 64
    """Examples in one step, over all devices; auto: as many as fit into the memory, found by measuring some steps of
    each arm; --lr stays what it is."""
    memory_limit: float | None = Field(None, gt=0)
    """batch_size auto: GiB of the device, or of all processes on this machine's CPU, the program itself included; none:
    what is free. A tenth of it is left free."""
    lr: float = Field(0.1, gt=0, le=1e6)
    """Learning rate (also --learning_rate)."""
    seeds: int = Field(1, ge=1)
    """How many random seeds: everything is repeated for each, and results carry an interval from two on."""
    limit_train: int | None = Field(None, ge=1)
    """Train on so many examples alone, the first ones of each class in turn, for a smoke test; validation data is held
    out of these."""
    limit_test: int | None = Field(None, ge=1)
    """Measure on so many examples alone, chosen likewise."""
    resume: bool | Path = False
    """Go on: auto or nothing after it takes the newest run; else the folder of a run or, where the run trains a single
    network, a checkpoint or a state dict."""
    run_dir: Path | None = None
    """Folder of this run; default: the next free runs/RECIPE-N."""
    log: TrackerName = "none"
    """Where every number is logged beside TensorBoard and CSV; a resumed run goes on in the same logged run."""
    workers: int = Field(0, ge=0)
    """Processes that load data; 0 loads in the main process."""

    @model_validator(mode="after")
    def _limits_what_is_measured(self) -> Self:
        if self.memory_limit is not None and not self.measures_batch:
            raise BitdialError(
                f"memory_limit belongs to batch_size auto, got batch_size {self.batch_size}; leave it out, or give "
                "--batch_size auto"
            )
        return self

    @property
    def measures_batch(self) -> bool:
        """Whether the batch size is still to be found."""
        return str(self.batch_size) == AUTO

    @property
    def root(self) -> Path:
        """Where run folders are numbered."""
        return Path("runs")

    def format_on(self, device_type: str) -> str:
        """The floating-point format that is asked for, where the run computes on such a device."""
        return self.precision


class SharedConfig(RunOptions, WorkOptions, ChangedDataOptions):
    """What every recipe takes that learns from labelled data: a network by name, and a data set by name."""


def autocast_format(device_type: str) -> str:
    """What ``use_amp`` means on a device: bfloat16 on a CPU, float16 with a loss scaler on a GPU."""
    return "float16" if device_type == "cuda" else "bfloat16"


def total_steps(options: RunOptions, loader: Iterable[Any]) -> int:
    """Optimizer steps of a run that counts ``steps`` or ``epochs``.

    Args:
        options: with the length, and the batches that make a step.
        loader: batches of one process.

    Raises:
        BitdialError: epochs of a loader that does not know its length.
    """
    if options.steps is not None:
        return options.steps
    from bitdial.training.batches import length_of  # brings torch

    size = length_of(loader)
    if size is None:
        raise BitdialError("epochs of a loader without a length cannot be counted in steps; give steps instead")
    return (options.epochs or 1) * -(-size // getattr(options, "gradient_accumulation_steps", 1))
