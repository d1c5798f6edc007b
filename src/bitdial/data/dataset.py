"""Sets of labelled images: a split, how batches of it are fetched, and a training and a test split under one name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor

from bitdial.errors import BitdialError

TEST_SHARE = 0.2
"""What is held out of data that has no test set of its own."""

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LabelledSplit(ABC):
    """What every split knows, whatever its samples are and wherever they live.

    Attributes:
        labels: int64 tensor `[N]`, each in `[0, num_classes)`.
        num_classes: Number of classes of the whole dataset (a split may lack some).
        mean: What is subtracted from each channel: of images the mean over the *training* images, in [0, 1] for uint8
            images, else in their own unit.
        std: What each channel is then divided by: of images the standard deviation, in the unit of `mean`.
        files: For each sample the name of its file below the data folder and what is known of its content, `SIZE` or
            `SIZE-CRC`; None where samples are no files.
    """

    labels: Tensor
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    files: tuple[tuple[str, str], ...] | None = None

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the batches come out, and so where augmentation and normalisation run."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Return the same split with its batches on `device`."""

    @abstractmethod
    def subset(self, indices: Tensor) -> Self:
        """Return the split that holds only the samples at `indices` (int64 `[M]`), in that order."""

    @abstractmethod
    def batches(self, indices: Iterable[Tensor], workers: int = 0) -> Iterator[tuple[Any, Tensor]]:
        """Yield, for each int64 tensor of sample numbers, `(samples as stored, labels int64 [B])`."""

    def files_at(self, indices: Tensor) -> tuple[tuple[str, str], ...] | None:
        """Return `files` of the samples at `indices` alone."""
        return None if self.files is None else tuple(self.files[i] for i in indices.tolist())

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ImageSplit(LabelledSplit):
    """A split of images; batches are `[B, C, H, W]`.

    Attributes:
        flip: Whether a mirrored image keeps its meaning (photographs do, digits do not); the standard
            augmentation flips only when it does.
    """

    flip: bool

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Channels of an image."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the square images, in pixels."""

    def __repr__(self) -> str:
        shape = f"{self.in_channels}x{self.image_size}x{self.image_size}"
        return f"{type(self).__name__}({len(self)} images {shape}, {self.num_classes} classes, on {self.device})"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Split(ImageSplit):
    """A split whose images are one tensor, on any device; needs no worker processes.

    Attributes:
        images: `[N, C, H, H]`, uint8 (0..255) or float32 (any unit, finite).
    """

    images: Tensor

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.images.shape[1]

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return self.images.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the images and labels live."""
        return self.images.device

    def to(self, device: torch.device | str) -> Self:
        """Return the split with images and labels on `device`; a copy only where the device differs."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor) -> Self:
        """Return the split that holds only the samples at `indices` (int64 `[M]`), in that order."""
        indices = indices.to(self.device)
        return replace(self, images=self.images[indices], labels=self.labels[indices], files=self.files_at(indices))

    def batches(self, indices: Iterable[Tensor], workers: int = 0) -> Iterator[Batch]:
        """Yield `(images [B, C, H, H] as stored, labels int64 [B])` for each tensor of sample numbers; no workers."""
        for chosen in indices:
            chosen = chosen.to(self.device, non_blocking=True)
            yield self.images.index_select(0, chosen), self.labels.index_select(0, chosen)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A training and a test split of square images, under the name they were loaded by; classes in label order.

    `notes` are sentences on what was left out of it, and what it lacks.
    """

    name: str
    train: ImageSplit
    test: ImageSplit
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.train.num_classes

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.train.in_channels

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return self.train.image_size

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return (self.in_channels, self.image_size, self.image_size)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training images per channel; in [0, 1] for uint8 images, else in their own unit."""
        return self.train.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the training images per channel, same unit as `mean`."""
        return self.train.std

    def to(self, device: torch.device | str) -> Self:
        """Return the dataset with both splits on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


@dataclass(frozen=True)
class Request:
    """What `load_dataset` was asked for: the name in small letters and with hyphens, the numbers checked."""

    name: str
    path: Path | None
    image_size: int | None
    seed: int
    memory_limit: int


Source: TypeAlias = Callable[[Request], ImageDataset]
"""Loads one kind of dataset; raises `BitdialError` for data that is missing, damaged or of the wrong shape."""

SOURCES: dict[str, Source] = {}
"""Name -> source, in the order in which they are registered."""


def register(*names: str) -> Callable[[Source], Source]:
    """Return a decorator that registers a source under `names`, each with hyphens and in small letters."""

    def remember(source: Source) -> Source:
        assert not SOURCES.keys() & set(names), names
        SOURCES.update(dict.fromkeys(names, source))
        return source

    return remember


def missing_classes(dataset: Any, thing: str = "an image") -> tuple[str, ...]:
    """Return a sentence for each split of a dataset of `thing` that lacks classes."""
    told = []
    for split, purpose in ((dataset.train, "train"), (dataset.test, "test")):
        present = set(split.labels.tolist())
        lacking = [name for number, name in enumerate(dataset.class_names) if number not in present]
        if lacking:
            shown = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
            count = f"{len(lacking)} of {dataset.num_classes}"
            told.append(f"Classes without {thing} to {purpose} on: {shown} ({count}).")
    return tuple(told)


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divide samples into training and test so that every class keeps its share; the same for the same arguments.

    Of every class the share `fraction`, rounded, goes to the test side, and at least one sample stays on the other.
    Returns two sorted int64 tensors of sample numbers, disjoint, together all of them.

    Raises:
        BitdialError: There are too few samples for a test side.
    """
    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(round(len(members) * fraction), len(members) - 1)
        test.append(members[:count])
        train.append(members[count:])
    held_out = torch.cat(test).sort().values
    if not len(held_out):
        raise BitdialError(
            f"no class has enough of the {len(labels)} images to hold some out; add images or give a test set"
        )
    return torch.cat(train).sort().values, held_out
