"""Image folders: `train/CLASS/*.png` and `val/CLASS/*.png`, or one folder of classes that is divided here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from bitdial.data.dataset import ImageDataset, channel_statistics, stratified_split
from bitdial.data.images import FolderSplit, decode_all, dimensions, in_threads
from bitdial.data.split import ImageSplit, Split
from bitdial.errors import BitdialError

_HELD_OUT_NAMES = ("val", "test", "valid", "validation")
_TEST_SHARE = 0.2
# Images measured for mean and deviation of a folder that is not held in memory.
_STATISTICS_SAMPLE = 2048


def load_folder(data_path: Path | None, image_size: int | None, seed: int, memory_limit: int) -> ImageDataset:
    """Load a folder of images, as RGB.

    Args:
        data_path: Holds `train` and one of `val`, `test`, `valid`, `validation`, each with a folder per class; or the
            class folders themselves, of which a fifth of every class is then held out, chosen by `seed`.
        image_size: Side to resize to (shorter side, then the centre); None only if all images are square and alike.
        seed: Chooses the held-out fifth.
        memory_limit: Bytes up to which the decoded images are held in memory; beyond, they are decoded when used.

    Raises:
        BitdialError: A missing folder, no or empty classes, unequal sizes without `image_size`, an unreadable image.
    """
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
            ([paths[i] for i in part.tolist()], labels[part]) for part in stratified_split(labels, _TEST_SHARE, seed)
        )
    size = image_size or _common_size([*train[0], *test[0]])
    held = 3 * size * size * (len(train[0]) + len(test[0])) <= memory_limit
    build = _in_memory if held else _on_disk
    splits = build(train, test, size, len(classes))
    return ImageDataset("folder", *splits, tuple(classes))


def _class_folders(root: Path) -> list[str]:
    try:
        return list(find_classes(root)[0])
    except FileNotFoundError as error:
        raise BitdialError(f"no class folders in {root}; expected one folder of images per class there") from error


def _samples(root: Path, classes: list[str], *, partial: bool = False) -> tuple[list[Path], Tensor]:
    """Files and labels below `root`, numbered by `classes`; only a `partial` root may lack some of them."""
    present = _class_folders(root)
    strange = sorted(set(present) - set(classes))
    if strange:
        raise BitdialError(
            f"{root} holds the class {strange[0]!r}, which the training folder lacks (it has "
            f"{', '.join(classes[:10])}); both must name the classes alike"
        )
    numbers = {name: number for number, name in enumerate(classes) if name in present}
    found = [
        (Path(path), number)
        for path, number in make_dataset(str(root), numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
    ]
    filled = {number for _, number in found}
    empty = [name for name, number in numbers.items() if number not in filled]
    if empty and not (partial and filled):
        raise BitdialError(
            f"the class folder {root / empty[0]} holds no image ({', '.join(IMG_EXTENSIONS)}); add images or remove it"
        )
    return [path for path, _ in found], torch.tensor([number for _, number in found])


def _common_size(paths: Sequence[Path]) -> int:
    sizes = Counter(in_threads(dimensions, paths))
    (width, height), count = sizes.most_common(1)[0]
    if len(sizes) > 1 or width != height:
        raise BitdialError(
            f"images must be square and of one size, got {len(sizes)} sizes, {width}x{height} in {count} of "
            f"{len(paths)} images; give image_size to resize them"
        )
    return width


def _in_memory(
    train: tuple[list[Path], Tensor], test: tuple[list[Path], Tensor], size: int, num_classes: int
) -> tuple[ImageSplit, ImageSplit]:
    decoded = [(decode_all(paths, size), labels) for paths, labels in (train, test)]
    mean, std = channel_statistics(decoded[0][0])
    first, second = (
        Split(images=images, labels=labels, num_classes=num_classes, mean=mean, std=std, flip=True)
        for images, labels in decoded
    )
    return first, second


def _on_disk(
    train: tuple[list[Path], Tensor], test: tuple[list[Path], Tensor], size: int, num_classes: int
) -> tuple[ImageSplit, ImageSplit]:
    step = -(-len(train[0]) // _STATISTICS_SAMPLE)
    mean, std = channel_statistics(decode_all(train[0][::step], size))
    first, second = (
        FolderSplit(
            paths=tuple(paths), size=size, labels=labels, num_classes=num_classes, mean=mean, std=std, flip=True
        )
        for paths, labels in (train, test)
    )
    return first, second
