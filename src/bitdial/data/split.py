"""A set of labelled images, and how batches of it are fetched: the part of a dataset that a loader reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from bitdial.errors import BitdialError

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ImageSplit(ABC):
    """What every split knows, whether its images live in memory or on disk.

    Attributes:
        labels: int64 tensor `[N]`, each in `[0, num_classes)`.
        num_classes: Number of classes of the whole dataset (a split may lack some).
        mean: Mean of the *training* images per channel; in [0, 1] for uint8 images, else in the images' own unit.
        std: Standard deviation of the training images per channel, same unit as `mean`.
        flip: Whether a mirrored image keeps its meaning (photographs do, digits do not); the standard
            augmentation flips only when it does.
    """

    labels: Tensor
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Channels of an image."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the square images, in pixels."""

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
    def batches(self, indices: Iterable[Tensor], workers: int = 0) -> Iterator[Batch]:
        """Yield, for each int64 tensor of sample numbers, `(images [B, C, H, W] as stored, labels int64 [B])`."""

    def __len__(self) -> int:
        return len(self.labels)

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
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def batches(self, indices: Iterable[Tensor], workers: int = 0) -> Iterator[Batch]:
        """Yield `(images [B, C, H, H] as stored, labels int64 [B])` for each tensor of sample numbers.

        `workers` is accepted for symmetry with a split on disk and has nothing to do here.
        """
        for chosen in indices:
            chosen = chosen.to(self.device, non_blocking=True)
            yield self.images.index_select(0, chosen), self.labels.index_select(0, chosen)


def check_labels(labels: Tensor, count: int, num_classes: int, where: str) -> Tensor:
    """Return `labels` as int64, or say what is wrong with them.

    Args:
        labels: Tensor of any integer type (or of floats that hold whole numbers), expected shape `[count]`.
        count: Number of images that the labels belong to.
        num_classes: Labels must lie in `[0, num_classes)`.
        where: Name of the array for the message, as "y_train".

    Raises:
        BitdialError: Wrong shape or count, a value that is not a whole number, or one out of range.
    """
    if labels.shape != (count,):
        raise BitdialError(f"{where} must hold one label per image, shape [{count}], got {list(labels.shape)}")
    whole = labels.to(torch.int64)
    broken = whole != labels if labels.is_floating_point() else torch.zeros_like(whole, dtype=torch.bool)
    outside = broken | (whole < 0) | (whole >= num_classes)
    if bool(outside.any()):
        first = int(outside.nonzero()[0])
        raise BitdialError(
            f"labels in {where} must be whole numbers in [0, {num_classes}), got {labels[first].item()} "
            f"at sample {first}; number the classes from 0 without gaps"
        )
    return whole


def count_classes(labels: Tensor, where: str) -> int:
    """Return the highest label plus one.

    Raises:
        BitdialError: No labels, or a highest one that cannot be a class number (NaN, all negative, beyond a million).
    """
    if labels.ndim != 1 or not len(labels) or labels.is_complex():
        raise BitdialError(f"{where} must be a non-empty vector of class numbers, got shape {list(labels.shape)}")
    highest = labels.max().item()
    if not 0 <= highest < 1_000_000:
        raise BitdialError(
            f"the highest label in {where} is {highest}; labels must be whole numbers from 0 up, without gaps"
        )
    return int(highest) + 1
