"""A named pair of splits with one normalisation, and how it is made of plain tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

import torch
from torch import Tensor

from bitdial.data.images import resize_square
from bitdial.data.split import ImageSplit, Split, check_labels, count_classes
from bitdial.errors import BitdialError

TEST_SHARE = 0.2
"""What is held out of data that has no test set of its own."""


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A training and a test split of square images.

    Attributes:
        name: The name it was loaded by.
        train: Training split.
        test: Test split: held out, never augmented.
        class_names: One name per class, in label order.
    """

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
    """What `load_dataset` was asked for; its numbers are checked.

    Attributes:
        name: The name that was asked for, in small letters and with hyphens.
        path: Where the data is; None: where such data usually is, or a download.
        image_size: Side in pixels to resize to; None keeps the images' own.
        seed: Chooses what is held out where the data has no test set of its own.
        memory_limit: Bytes up to which decoded images are held in memory.
    """

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
    arrays = {"train": train, "test": test}
    images = {key: _checked_images(value[0], f"x_{key}") for key, value in arrays.items()}
    first, second = images["train"], images["test"]
    if first.shape[1] != second.shape[1] or first.dtype != second.dtype:
        raise BitdialError(
            f"x_train and x_test must agree in type and channels, got {first.dtype} {list(first.shape)} and "
            f"{second.dtype} {list(second.shape)}; convert one of them"
        )
    if image_size is None:
        _require_one_square_size(first, second)
    else:
        images = {key: resize_square(value, image_size) for key, value in images.items()}
    if num_classes is None:
        num_classes = count_classes(train[1], "y_train")
    mean, std = channel_statistics(images["train"])
    splits = {
        key: Split(
            images=images[key],
            labels=check_labels(value[1], len(images[key]), num_classes, f"y_{key}"),
            num_classes=num_classes,
            mean=mean,
            std=std,
            flip=flip,
        )
        for key, value in arrays.items()
    }
    return ImageDataset(name, splits["train"], splits["test"], class_names or tuple(map(str, range(num_classes))))


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
        deviation = float(variance) ** 0.5
        means.append(float(mean))
        deviations.append(deviation if deviation > 1e-8 else 1.0)
    return tuple(means), tuple(deviations)


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divide samples into training and test so that every class keeps its share; the same for the same arguments.

    Args:
        labels: int64 `[N]`.
        fraction: Share of every class that goes to the test side, rounded; the training side keeps at least one.
        seed: Which division.

    Returns:
        Two sorted int64 tensors of sample numbers, disjoint, together all of them.

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


def _require_one_square_size(train: Tensor, test: Tensor) -> None:
    sizes = {f"{images.shape[2]}x{images.shape[3]}" for images in (train, test)}
    if len(sizes) > 1 or train.shape[2] != train.shape[3]:
        raise BitdialError(
            f"images must be square and of one size, got {' and '.join(sorted(sizes))}; give image_size to resize them"
        )
