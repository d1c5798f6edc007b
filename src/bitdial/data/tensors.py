"""Data sets of tensors: checked, made square, measured."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bitdial.data.dataset import ImageDataset, Split, missing_classes
from bitdial.errors import BitdialError

_CHUNK = 4096  # images resized at a time, so that the intermediate stays small beside the dataset


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
        train: Images `[N, C, H, W]` and labels `[N]`. Images of 8 bits stay as they are, others become float32 in
            their own unit. Labels are whole numbers of any type, also `[N, 1]`, or one-hot `[N, num_classes]`.
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
            f"images must be square and of one size, got {' and '.join(sorted(sizes))}; "
            "resize them, or give image_size to load_dataset"
        )
    y_train, y_test = class_numbers(train[1], "y_train"), class_numbers(test[1], "y_test")
    if num_classes is None:
        num_classes = count_classes(y_train, "y_train")
    names = class_names or tuple(map(str, range(num_classes)))
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
        for images, labels, where in ((x_train, y_train, "y_train"), (x_test, y_test, "y_test"))
    )
    data = ImageDataset(name, first, second, names)
    return replace(data, notes=missing_classes(data))


def resize_square(images: Tensor, size: int) -> Tensor:
    """Resize `[N, C, H, W]` to `[N, C, size, size]`; keeps the type.

    The rule, here and for files: the shorter side to the wanted size, bilinear and antialiased, then the centre.
    """
    if tuple(images.shape[2:]) == (size, size):
        return images
    parts = torch.split(images, _CHUNK)
    from torchvision.transforms.v2 import functional

    return torch.cat([functional.center_crop(functional.resize(part, size), [size, size]) for part in parts])


def class_numbers(labels: Tensor, where: str) -> Tensor:
    """Return labels as int64 `[N]`: whole numbers of any type, `[N]` or `[N, 1]`, or one-hot `[N, num_classes]`.

    Raises:
        BitdialError: They are something else.
    """
    if labels.is_complex() or not labels.numel() or labels.ndim not in (1, 2):
        raise BitdialError(f"{where} must be a non-empty vector of class numbers, got shape {list(labels.shape)}")
    if labels.ndim == 2 and labels.shape[1] > 1:
        values = labels.double()
        if not bool((((values == 0) | (values == 1)).all(1) & (values.sum(1) == 1)).all()):
            raise BitdialError(
                f"{where} must hold one class number per image, or one-hot rows, got shape {list(labels.shape)} with "
                "other values; take the argmax of shares"
            )
        return values.argmax(1)
    labels = labels.flatten()
    whole = labels.to(torch.int64)
    broken = whole < 0
    if labels.is_floating_point():
        broken |= labels != whole
    if bool(broken.any()):
        first = int(broken.nonzero()[0])
        raise BitdialError(
            f"labels in {where} must be whole numbers from 0 up, got {labels[first].item()} at sample {first}; number "
            "the classes from 0 without gaps"
        )
    return whole


def count_classes(labels: Tensor, where: str) -> int:
    """Return the highest label plus one; refuse one beyond a million, which cannot be a class number."""
    highest = int(labels.max())
    if highest >= 1_000_000:
        raise BitdialError(
            f"the highest label in {where} is {highest}; labels must be whole numbers from 0 up, without gaps"
        )
    return highest + 1


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


def _checked_images(images: Tensor, where: str) -> Tensor:
    if images.ndim != 4 or not images.numel():
        raise BitdialError(f"{where} must be images of shape [N, C, H, W] with N > 0, got {list(images.shape)}")
    if images.dtype == torch.uint8:
        return images
    if images.is_complex():
        raise BitdialError(f"{where} must hold real numbers, got complex ones; take their magnitude")
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
    if labels.shape != (count,):
        raise BitdialError(f"{where} must hold one label per image, shape [{count}], got {list(labels.shape)}")
    outside = labels >= num_classes
    if bool(outside.any()):
        first = int(outside.nonzero()[0])
        raise BitdialError(
            f"labels in {where} must be whole numbers in [0, {num_classes}), got {int(labels[first])} "
            f"at sample {first}; number the classes from 0 without gaps"
        )
    return labels
