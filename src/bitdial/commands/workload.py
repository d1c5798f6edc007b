"""A network and the shape of its data, by name: what advice and measurements are about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from bitdial.configuration import Config
from bitdial.errors import BitdialError, suggest
from bitdial.models.names import check_name
from bitdial.names import DATASETS, NETWORKS, is_recordings
from bitdial.recipes.options import NETWORK_HELP

if TYPE_CHECKING:
    import torch
    from torch import nn

SHAPES = {
    "digits": (1, 8, 10),
    "mnist": (1, 28, 10),
    "fashion-mnist": (1, 28, 10),
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
}
"""Channels, side in pixels and classes of the datasets that need no looking at: nothing is downloaded for advice."""


class WorkloadConfig(Config):
    """A network and the shape of its data."""

    model: str = Field("resnet18", description=NETWORK_HELP, examples=list(NETWORKS))

    dataset: str = Field(
        "cifar10",
        description=f"Data set, by name: {', '.join(DATASETS)}. Only folder and npz are looked at.",
        examples=list(DATASETS),
    )

    data_path: Path | None = None
    """Where the data set folder or npz is."""

    image_size: int | None = Field(None, ge=1, le=4096)
    """Side of the images in pixels; by default the data set's own."""

    batch_size: int = Field(64, ge=1, le=2**31 - 1)
    """Examples in one step."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where it would train; auto: the GPU where there is one."""


@dataclass(frozen=True)
class Workload:
    """What is to be trained: a network in training mode, on the CPU; the shape of its data; and that in words."""

    network: nn.Module
    channels: int
    side: int
    classes: int
    batch_size: int
    device: torch.device
    text: str

    def images(self, count: int) -> torch.Tensor:
        """Random images, ``[count, channels, side, side]``, on the CPU."""
        import torch

        return torch.randn(count, self.channels, self.side, self.side)


def workload_of(options: WorkloadConfig) -> Workload:
    """Build the network that the options name.

    Raises:
        BitdialError: an unknown name, images that the network cannot take, a device that is not here.
    """
    from bitdial.models import build_model, check_name

    check_name(options.model)
    device = _device(options.device)
    channels, side, classes = _shape(options)
    network = build_model(options.model, num_classes=classes, in_channels=channels, image_size=side)
    text = f"{options.model} on {options.dataset} ({channels}x{side}x{side}, {classes} classes)"
    return Workload(network, channels, side, classes, options.batch_size, device, text)


def check_workload(options: WorkloadConfig) -> None:
    """Refuse a network or a data set by a name that there is none of, as far as that needs no torch.

    Raises:
        BitdialError: the text lists those there are.
    """
    check_name(options.model)
    name = options.dataset.lower().replace("_", "-")
    if is_recordings(name):
        raise BitdialError(
            f"--dataset: expected a data set of images, got '{name}', which holds recordings; choose another"
        )
    if name not in DATASETS:
        hint = suggest(name, DATASETS) or f"; there are: {', '.join(DATASETS)}"
        raise BitdialError(f"--dataset: expected a data set's name, got '{options.dataset}'{hint}")
    if name in SHAPES and options.data_path is not None:
        raise BitdialError(
            f"--data_path is for the data sets folder and npz, got it with '{name}', whose shape is known; leave it out"
        )


def _shape(options: WorkloadConfig) -> tuple[int, int, int]:
    from bitdial.data import load_dataset

    name = options.dataset.lower().replace("_", "-")
    if name in SHAPES:
        channels, side, classes = SHAPES[name]
        return channels, options.image_size or side, classes
    data = load_dataset(name, options.data_path, image_size=options.image_size)
    return data.in_channels, data.image_size, data.num_classes


def _device(name: str) -> torch.device:
    import torch

    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    if (name == "cuda" and not has_cuda) or (name == "mps" and not has_mps):
        raise BitdialError(f"--device: expected a device that is here, got {name}, which torch does not find; use cpu")
    return torch.device(name)
