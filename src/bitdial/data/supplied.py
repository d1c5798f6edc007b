"""A user's own images: folders of classes, or tensors in one file, `.npz` of numpy or `.pt` of torch.

A form is a loader that `register` gives its name.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from bitdial.data.dataset import (
    TEST_SHARE,
    ImageDataset,
    ImageSplit,
    Request,
    Split,
    channel_statistics,
    count_classes,
    dataset_from_tensors,
    register,
    stratified_split,
)
from bitdial.data.images import FolderSplit, decode_all, dimensions, in_threads
from bitdial.errors import BitdialError, suggest

_HELD_OUT_NAMES = ("val", "test", "valid", "validation")
# Images measured for mean and deviation of a folder that is not held in memory.
_STATISTICS_SAMPLE = 2048
_DIVIDED = ("x_train", "y_train", "x_test", "y_test")
_WHOLE = ("x", "y")
# Image files, and the labels int64 `[N]` that belong to them.
_Samples: TypeAlias = tuple[list[Path], Tensor]


@register("folder")
def load_folder(wanted: Request) -> ImageDataset:
    """Load a folder of images, as RGB.

    It holds `train` and one of `val`, `test`, `valid`, `validation`, each with a folder per class; or the class folders
    themselves, of which a fifth of every class is then held out, chosen by the seed. An image size is needed unless all
    images are square and alike.
    """
    data_path = wanted.path
    if data_path is None:
        raise BitdialError("the dataset 'folder' needs data_path: a folder with train/CLASS/… and val/CLASS/…")
    if not data_path.is_dir():
        raise BitdialError(f"no folder {data_path}; expected train/CLASS/… and val/CLASS/… or CLASS/… in it")
    if (data_path / "train").is_dir():
        held_out = next((data_path / name for name in _HELD_OUT_NAMES if (data_path / name).is_dir()), None)
        if held_out is None:
            raise BitdialError(
                f"{data_path} has a folder train but none of {', '.join(_HELD_OUT_NAMES)}; add one, or give "
                f"{data_path / 'train'} as data_path to have a fifth held out"
            )
        classes = _class_folders(data_path / "train")
        train = _samples(data_path / "train", classes)
        test = _samples(held_out, classes, partial=True)
    else:
        classes = _class_folders(data_path)
        paths, labels = _samples(data_path, classes)
        train, test = (
            ([paths[i] for i in part.tolist()], labels[part])
            for part in stratified_split(labels, TEST_SHARE, wanted.seed)
        )
    size = wanted.image_size or _common_size([*train[0], *test[0]])
    held = 3 * size * size * (len(train[0]) + len(test[0])) <= wanted.memory_limit
    first, second = _splits(train, test, size, len(classes), in_memory=held)
    return ImageDataset("folder", first, second, tuple(classes))


def _class_folders(root: Path) -> list[str]:
    try:
        return list(find_classes(root)[0])
    except FileNotFoundError as error:
        raise BitdialError(f"no class folders in {root}; expected one folder of images per class there") from error


def _samples(root: Path, classes: list[str], *, partial: bool = False) -> _Samples:
    """Files and labels below `root`, numbered by `classes`; only a `partial` root may lack some of them."""
    present = _class_folders(root)
    strange = sorted(set(present) - set(classes))
    if strange:
        raise BitdialError(
            f"{root} holds the class {strange[0]!r}, which the training folder lacks (it has "
            f"{', '.join(classes[:10])}); both must name the classes alike"
        )
    numbers = {name: number for number, name in enumerate(classes) if name in present}
    found = make_dataset(str(root), numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
    filled = {number for _, number in found}
    empty = [name for name, number in numbers.items() if number not in filled]
    if empty and not (partial and filled):
        raise BitdialError(
            f"the class folder {root / empty[0]} holds no image ({', '.join(IMG_EXTENSIONS)}); add images or remove it"
        )
    return [Path(path) for path, _ in found], torch.tensor([number for _, number in found])


def _common_size(paths: Sequence[Path]) -> int:
    sizes = Counter(in_threads(dimensions, paths))
    (width, height), count = sizes.most_common(1)[0]
    if len(sizes) > 1 or width != height:
        raise BitdialError(
            f"images must be square and of one size, got {len(sizes)} sizes, {width}x{height} in {count} of "
            f"{len(paths)} images; give image_size to resize them"
        )
    return width


def _splits(train: _Samples, test: _Samples, size: int, num_classes: int, *, in_memory: bool) -> list[ImageSplit]:
    step = 1 if in_memory else -(-len(train[0]) // _STATISTICS_SAMPLE)
    images = decode_all(train[0][::step], size)
    mean, std = channel_statistics(images)
    shared: dict[str, Any] = {"num_classes": num_classes, "mean": mean, "std": std, "flip": True}
    if in_memory:
        decoded = ((images, train[1]), (decode_all(test[0], size), test[1]))
        return [Split(images=images, labels=labels, **shared) for images, labels in decoded]
    return [FolderSplit(paths=tuple(paths), size=size, labels=labels, **shared) for paths, labels in (train, test)]


@register("npz")
def load_arrays(wanted: Request) -> ImageDataset:
    """Load images and labels from a file with `x_train, y_train, x_test, y_test`, or with `x, y` alone.

    Images are uint8 or floating point, `[N, C, H, W]`, `[N, H, W, C]` with 1, 3 or 4 channels, or `[N, H, W]`. With
    `x, y` a fifth of every class is held out, chosen by the seed. Mirroring is never assumed harmless.
    """
    data_path = wanted.path
    if data_path is None:
        raise BitdialError(
            "the dataset 'npz' needs data_path: a .npz or .pt file with x_train, y_train, x_test, y_test"
        )
    if not data_path.is_file():
        raise BitdialError(f"no file {data_path}; expected a .npz or .pt file with {', '.join(_DIVIDED)}")
    arrays = _read(data_path)
    if all(key in arrays for key in _DIVIDED):
        train = (_channels_first(arrays["x_train"], "x_train"), arrays["y_train"])
        test = (_channels_first(arrays["x_test"], "x_test"), arrays["y_test"])
        return dataset_from_tensors("npz", train, test, image_size=wanted.image_size)
    if not all(key in arrays for key in _WHOLE):
        missing = [key for key in _DIVIDED if key not in arrays]
        raise BitdialError(
            f"{data_path} lacks {', '.join(missing)} (it holds {', '.join(arrays) or 'nothing'})"
            f"{suggest(missing[0], arrays)}; give {', '.join(_DIVIDED)}, or x and y to have a test set held out"
        )
    images, labels = _channels_first(arrays["x"], "x"), arrays["y"]
    if labels.shape != images.shape[:1]:
        raise BitdialError(
            f"y must hold one label per image, shape [{len(images)}], got {list(labels.shape)}; match it to x"
        )
    num_classes = count_classes(labels, "y")
    train, test = ((images[part], labels[part]) for part in stratified_split(labels, TEST_SHARE, wanted.seed))
    return dataset_from_tensors("npz", train, test, num_classes=num_classes, image_size=wanted.image_size)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in (".npz", ".pt", ".pth"):
        raise BitdialError(
            f"data_path must be a .npz or .pt file, got {path.name}; save the arrays in one of these forms"
        )
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {key: torch.from_numpy(archive[key]) for key in archive.files}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise BitdialError(f"cannot read {path}: {' '.join(str(error).split())[:200]}; write the file again") from error
    except ValueError as error:
        raise BitdialError(f"{path} holds Python objects, not numbers ({error}); save plain arrays") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BitdialError(f"{path} must hold a dict of tensors, got {type(content).__name__}; save {{'x_train': …}}")
    return {str(key): value for key, value in content.items()}


def _channels_first(images: Tensor, where: str) -> Tensor:
    if images.ndim == 3:
        return images.unsqueeze(1)
    if images.ndim == 4 and images.shape[1] not in (1, 3, 4) and images.shape[3] in (1, 3, 4):
        return images.permute(0, 3, 1, 2).contiguous()
    if images.ndim != 4:
        raise BitdialError(f"{where} must have shape [N, C, H, W], [N, H, W, C] or [N, H, W], got {list(images.shape)}")
    return images
