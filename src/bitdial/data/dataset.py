"""Sets of labelled images: a split, how batches of it are fetched, and a training and a test split under one name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeAlias

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from bitdial.errors import BitdialError

TEST_SHARE = 0.2
"""What is held out of data that has no test set of its own."""

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
        """Yield `(images [B, C, H, H] as stored, labels int64 [B])` for each tensor of sample numbers; no workers."""
        for chosen in indices:
            chosen = chosen.to(self.device, non_blocking=True)
            yield self.images.index_select(0, chosen), self.labels.index_select(0, chosen)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A training and a test split of square images, under the name they were loaded by; classes in label order."""

    name: str
    train: ImageSplit
    test: ImageSplit
    class_names: tuple[str, ...]

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
    def mean(self) -> tuple[float, ...]:
        """Mean of the training images per channel; in [0, 1] for uint8 images, else in their own unit."""
        return self.train.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the training images per channel, same unit as `mean`."""
        return self.train.std

    def to(self, device: torch.device | str) -> Self:
        """Return the dataset with both splits on `device`."""
        return type(self)(self.name, self.train.to(device), self.test.to(device), self.class_names)


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


def dataset_from_tensors(
    name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    num_classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    image_size: int | None = None,
    flip: bool = False,
) -> ImageDataset:
    """Make a dataset of tensors, after checking them.

    Args:
        name: Name for messages and reports.
        train: Images `[N, C, H, W]` (uint8 or float) and labels `[N]`.
        test: The same for the test split.
        num_classes: Number of classes; by default the highest training label plus one.
        class_names: One per class; by default the class numbers.
        image_size: Side to resize to (shorter side to this many pixels, then the centre); None keeps the size.
        flip: Whether a mirrored image keeps its meaning.

    Raises:
        BitdialError: Shapes or types that do not fit, values that are not finite, labels out of range.
    """
    x_train, x_test = _checked_images(train[0], "x_train"), _checked_images(test[0], "x_test")
    if x_train.shape[1] != x_test.shape[1] or x_train.dtype != x_test.dtype:
        raise BitdialError(
            f"x_train and x_test must agree in type and channels, got {x_train.dtype} {list(x_train.shape)} and "
            f"{x_test.dtype} {list(x_test.shape)}; convert one of them"
        )
    sizes = {f"{images.shape[2]}x{images.shape[3]}" for images in (x_train, x_test)}
    if image_size is not None:
        x_train, x_test = resize_square(x_train, image_size), resize_square(x_test, image_size)
    elif len(sizes) > 1 or x_train.shape[2] != x_train.shape[3]:
        raise BitdialError(
            f"images must be square and of one size, got {' and '.join(sorted(sizes))}; give image_size to resize them"
        )
    if num_classes is None:
        num_classes = count_classes(train[1], "y_train")
    mean, std = channel_statistics(x_train)
    first, second = (
        Split(
            images=images,
            labels=_checked_labels(labels, len(images), num_classes, where),
            num_classes=num_classes,
            mean=mean,
            std=std,
            flip=flip,
        )
        for images, labels, where in ((x_train, train[1], "y_train"), (x_test, test[1], "y_test"))
    )
    return ImageDataset(name, first, second, class_names or tuple(map(str, range(num_classes))))


_CHUNK = 4096  # images resized at a time, so that the intermediate stays small beside the dataset


def resize_square(images: Tensor, size: int) -> Tensor:
    """Resize `[N, C, H, W]` to `[N, C, size, size]`; keeps the type.

    The rule, here and for files: the shorter side to the wanted size, bilinear and antialiased, then the centre.
    """
    if tuple(images.shape[2:]) == (size, size):
        return images
    parts = torch.split(images, _CHUNK)
    return torch.cat([functional.center_crop(functional.resize(part, size), [size, size]) for part in parts])


def count_classes(labels: Tensor, where: str) -> int:
    """Return the highest label plus one; refuse one that cannot be a class number (NaN, negative, beyond a million)."""
    if labels.ndim != 1 or not len(labels) or labels.is_complex():
        raise BitdialError(f"{where} must be a non-empty vector of class numbers, got shape {list(labels.shape)}")
    highest = labels.max().item()
    if not 0 <= highest < 1_000_000:
        raise BitdialError(
            f"the highest label in {where} is {highest}; labels must be whole numbers from 0 up, without gaps"
        )
    return int(highest) + 1


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation (population form) per channel of images `[N, C, H, W]`.

    uint8 images are measured in [0, 1] and exactly, from the counts of the 256 values; floats in their own unit. A
    constant channel gets the deviation 1, so that normalising it yields zeros.
    """
    means, deviations = [], []
    for channel in images.unbind(1):
        flat = channel.reshape(-1)
        if images.dtype == torch.uint8:
            counts = torch.bincount(flat, minlength=256).double()
            values = torch.arange(256, dtype=torch.float64, device=images.device) / 255
            mean = (counts * values).sum() / counts.sum()
            variance = (counts * (values - mean) ** 2).sum() / counts.sum()
        else:
            mean = flat.double().mean()
            variance = flat.double().var(correction=0)
        means.append(float(mean))
        deviations.append(float(variance) ** 0.5 if variance > 1e-16 else 1.0)
    return tuple(means), tuple(deviations)


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


def _checked_images(images: Tensor, where: str) -> Tensor:
    if images.ndim != 4 or not images.numel():
        raise BitdialError(f"{where} must be images of shape [N, C, H, W] with N > 0, got {list(images.shape)}")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise BitdialError(f"{where} must be uint8 (0..255) or floating point, got {kind}; convert it to one of them")
    images = images.to(torch.float32)
    bad = ~images.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        sample = int(bad.nonzero()[0])
        place = (~images[sample].isfinite()).nonzero()[0].tolist()
        value = float(images[sample][tuple(place)])
        raise BitdialError(
            f"{where} holds {value} at sample {sample} (channel, row, column {place}) and {int(bad.sum())} of its "
            f"{len(images)} samples are not finite in float32; repair or remove them"
        )
    return images


def _checked_labels(labels: Tensor, count: int, num_classes: int, where: str) -> Tensor:
    """Return labels `[count]` of any integer type, or of floats that hold whole numbers, as int64."""
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
