"""A user's own images in folders, one for each class."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bitdial.data.dataset import (
    TEST_SHARE,
    ImageDataset,
    ImageSplit,
    Request,
    Split,
    missing_classes,
    register,
    stratified_split,
)
from bitdial.data.images import FolderSplit, decode_all, dimensions, in_threads
from bitdial.data.pictures import holds_integers, naming, readable_kinds, unreadable_kinds
from bitdial.data.tensors import channel_statistics
from bitdial.errors import BitdialError
from bitdial.files import as_text

_HELD_OUT_NAMES = ("val", "test", "valid", "validation")
_PART_NAMES = {*_HELD_OUT_NAMES, "train", "training", "testing"}
# What systems leave beside images, besides all that begins with a dot.
_HIDDEN = {"__MACOSX", "@eaDir", "__pycache__"}
# Images measured for mean and deviation of a folder that is not held in memory.
_STATISTICS_SAMPLE = 2048
# Image files, and the labels int64 `[N]` that belong to them.
_Samples: TypeAlias = tuple[list[Path], Tensor]


@register("folder")
def load_folder(wanted: Request) -> ImageDataset:
    """Load a folder of images, as RGB.

    It holds `train` and one of `val`, `test`, `valid`, `validation`, each with a folder per class; or the class folders
    themselves, of which a fifth of every class is then held out, chosen by the seed. An image size is needed unless all
    images are square and alike.
    """
    root = wanted.path
    if root is None:
        raise BitdialError("the dataset 'folder' needs data_path: a folder with train/CLASS/… and val/CLASS/…")
    if not root.is_dir():
        raise BitdialError(
            f"no folder {root}; expected train/CLASS/… and val/CLASS/… or CLASS/… in it; give data_path if it moved"
        )
    unread: Counter[str] = Counter()
    if (root / "train").is_dir():
        held_out = next((root / name for name in _HELD_OUT_NAMES if (root / name).is_dir()), None)
        if held_out is None:
            raise BitdialError(
                f"{root} has a folder train but none of {', '.join(_HELD_OUT_NAMES)}; add one, or give "
                f"{root / 'train'} as data_path to have a fifth held out"
            )
        classes = _class_folders(root / "train")
        train = _samples(root / "train", classes, unread)
        test = _samples(held_out, classes, unread, partial=True)
    else:
        classes = _class_folders(root)
        if len(classes) > 1 and all(name.lower() in _PART_NAMES for name in classes):
            raise BitdialError(
                f"expected the folders train and val in {root}, or one for each class, got {', '.join(classes)}; "
                "rename them to train and val"
            )
        paths, labels = _samples(root, classes, unread)
        train, test = (
            ([paths[i] for i in part.tolist()], labels[part])
            for part in stratified_split(labels, TEST_SHARE, wanted.seed)
        )
    size = wanted.image_size or _common_size([*train[0], *test[0]])
    held = 3 * size * size * (len(train[0]) + len(test[0])) <= wanted.memory_limit
    first, second = _splits(root, train, test, size, len(classes), in_memory=held)
    data = ImageDataset("folder", first, second, tuple(classes))
    return replace(data, notes=(*_told(unread), *missing_classes(data)))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _HIDDEN


def _class_folders(root: Path) -> list[str]:
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not _hidden(entry.name))
    strange = [name for name in classes if as_text(name) != name]
    if strange:
        raise BitdialError(f"{root} holds a class whose name is not UTF-8, {as_text(strange[0])}; rename its folder")
    if not classes:
        raise BitdialError(f"no class folders in {root}; expected one folder of images per class there")
    once = Counter(name.casefold() for name in classes)
    alike = [name for name in classes if once[name.casefold()] > 1]
    if alike:
        raise BitdialError(
            f"{root} holds classes that differ in capital letters alone: {', '.join(alike[:10])}; merge or rename them"
        )
    return classes


def _samples(root: Path, classes: list[str], unread: Counter[str], *, partial: bool = False) -> _Samples:
    """Files and labels below `root`, numbered by `classes`; only a `partial` root may lack some of them.

    Image files of kinds that cannot be read are counted in `unread`.
    """
    present = _class_folders(root)
    strange = sorted(set(present) - set(classes))
    if strange:
        raise BitdialError(
            f"{root} holds the class {strange[0]!r}, which the training folder lacks (it has "
            f"{', '.join(classes[:10])}); both must name the classes alike"
        )
    kinds, others = readable_kinds(), unreadable_kinds()
    paths: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        found = _files(root / name)
        unread.update(path.suffix.lower() for path in found if path.suffix.lower() in others)
        found = [path for path in found if path.suffix.lower() in kinds]
        if not found and not partial:
            raise BitdialError(
                f"the class folder {root / name} holds no image that can be read; add images or remove it"
            )
        paths += found
        labels += [number] * len(found)
    if not paths:
        raise BitdialError(f"the class folders in {root} hold no image; add images")
    return paths, torch.tensor(labels)


def _files(folder: Path) -> list[Path]:
    """All files below a folder but for hidden ones, folder by folder; a link to a folder above it is not followed."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        above = {real, *real.parents}
        folders[:] = [name for name in folders if not _hidden(name) and Path(place, name).resolve() not in above]
        found.append((place, sorted(name for name in names if not _hidden(name))))
    return [Path(place, name) for place, names in sorted(found) for name in names]


def _told(unread: Counter[str]) -> list[str]:
    if not unread:
        return []
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(unread.items()))
    return [f"Images of kinds that cannot be read were left out ({kinds}); convert them to PNG."]


def _common_size(paths: Sequence[Path]) -> int:
    sizes = Counter(in_threads(dimensions, paths))
    (width, height), count = sizes.most_common(1)[0]
    if len(sizes) > 1 or width != height:
        raise BitdialError(
            f"images must be square and of one size, got {len(sizes)} sizes, {width}x{height} in {count} of "
            f"{len(paths)} images; resize them, or give image_size to load_dataset"
        )
    return width


def _splits(
    root: Path, train: _Samples, test: _Samples, size: int, num_classes: int, *, in_memory: bool
) -> list[ImageSplit]:
    step = 1 if in_memory else -(-len(train[0]) // _STATISTICS_SAMPLE)
    images = decode_all(train[0][::step], size)
    if int(images.max()) <= 16 and holds_integers(train[0][0]):
        raise BitdialError(
            f"the 16-bit images in {root} use less than a sixteenth of their range, as if they held 12 bits, and would "
            "lose all but 16 levels; scale them, write PGM with maxval 4095, or give arrays as .npz"
        )
    mean, std = channel_statistics(images)
    shared: dict[str, Any] = {"num_classes": num_classes, "mean": mean, "std": std, "flip": True}
    # Content is looked at where it has been read anyway.
    mark = _size_and_sum if in_memory else _size
    splits: list[ImageSplit] = []
    for paths, labels in (train, test):
        shared |= {"labels": labels, "files": _named(root, paths, mark)}
        if in_memory:
            held = images if paths is train[0] else decode_all(paths, size)
            splits.append(Split(images=held, **shared))
        else:
            splits.append(FolderSplit(paths=tuple(paths), size=size, **shared))
    return splits


def _named(root: Path, paths: Sequence[Path], mark: Callable[[Path], str]) -> tuple[tuple[str, str], ...]:
    names = (as_text(path.relative_to(root).as_posix()) for path in paths)
    return tuple(zip(names, in_threads(mark, paths), strict=True))


def _size(path: Path) -> str:
    with naming(path):
        return str(path.stat().st_size)


def _size_and_sum(path: Path) -> str:
    with naming(path):
        content = path.read_bytes()
    return f"{len(content)}-{zlib.crc32(content):08x}"
