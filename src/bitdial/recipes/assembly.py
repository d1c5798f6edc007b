"""What every recipe puts together from its options: devices, network, and a rehearsal before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from bitdial.configuration import SharedConfig
from bitdial.data import ImageDataset
from bitdial.errors import BitdialError, RunInterrupted, suggest
from bitdial.models import MODELS, build_model
from bitdial.training import Classification, Task, TrainingDiverged, make_fabric
from bitdial.training.devices import STARTS_FUNCTIONS

if TYPE_CHECKING:
    from lightning.fabric import Fabric

EVALUATION_BATCH = 256


def check_model_name(name: str) -> None:
    """Refuse a network that does not exist before data is loaded, perhaps over the network."""
    if name not in MODELS and not name.startswith(("timm/", "torchvision/")):
        hint = suggest(name, MODELS) or f"; there are: {', '.join(MODELS)}, timm/NAME, torchvision/NAME"
        raise BitdialError(f"model must be a network's name, got '{name}'{hint}")


def build_network(config: SharedConfig, data: ImageDataset) -> nn.Module:
    """The network of a configuration, unquantized, for the images at hand."""
    return build_model(
        config.model, num_classes=data.num_classes, in_channels=data.in_channels, image_size=data.image_size
    )


def fabric_for(config: SharedConfig) -> Fabric:
    """The devices of a configuration; nothing is launched yet.

    Args:
        config: devices, machines, strategy, batch size.

    Raises:
        BitdialError: devices that are not there, or that cannot share a batch evenly.
    """
    if config.strategy in STARTS_FUNCTIONS:
        raise BitdialError(
            f"strategy must be one that starts this command once per device (auto, ddp, fsdp), got {config.strategy}, "
            "which starts a function of a script"
        )
    fabric = make_fabric(config.devices, config.num_nodes, config.strategy)
    world = fabric.world_size
    if config.batch_size % world:
        raise BitdialError(
            f"batch_size must divide by the {world} processes, got {config.batch_size}; "
            f"{max(config.batch_size // world, 1) * world} would do"
        )
    return fabric


def rehearse(model: nn.Module, batches: Iterable[Any], task: Task | None = None) -> None:
    """Find now what would only be found when training starts: let a new network see two examples of its data.

    Raises:
        BitdialError: there is no batch, or the network cannot train on it.
    """
    batch = next(iter(batches), None)
    if batch is None:
        raise BitdialError("loader must give at least one batch, got none; is the training split empty?")
    batch = [part[:2] for part in batch]
    try:
        (task or Classification()).loss(model.to(batch[0].device), batch)
    except BitdialError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:  # as torch says it
        shape = list(batch[0].shape)
        raise BitdialError(f"the network cannot train on inputs of shape {shape}: {error}") from error


@contextmanager
def named(what: str, how_to_resume: str, *, saved: bool) -> Iterator[None]:
    """Say what was being trained when training was stopped or went wrong.

    Args:
        what: which of the networks of a run.
        how_to_resume: the command that goes on.
        saved: whether anything was.
    """
    try:
        yield
    except (RunInterrupted, TrainingDiverged) as error:
        raise type(error)(f"{what}: {error}") from error
    except KeyboardInterrupt:  # outside of the steps, which save first
        kept = f"what was saved before is kept; to go on: {how_to_resume}" if saved else "nothing was saved"
        raise RunInterrupted(f"{what}: stopped by Ctrl-C between training and measuring; {kept}") from None


@contextmanager
def told_once(fabric: Fabric, *errors: type[BitdialError]) -> Iterator[None]:
    """Let the first process tell of an error that all have at once; the others end quietly."""
    try:
        yield
    except errors as error:
        if fabric.is_global_zero:
            raise
        raise SystemExit(0) from error
