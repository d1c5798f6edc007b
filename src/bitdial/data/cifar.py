"""CIFAR-10 and CIFAR-100 in their "python version", read by torchvision.

The files are pickles; torchvision checks their MD5 sums before it opens them, so nothing but the original is unpickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets

from bitdial.data.dataset import ImageDataset, dataset_from_tensors
from bitdial.data.downloads import cache_folder, downloading
from bitdial.errors import BitdialError


def load_cifar(name: str, data_path: Path | None, image_size: int | None) -> ImageDataset:
    """Load "cifar10" or "cifar100" from `data_path`, or from the download cache (filled by torchvision when empty).

    Args:
        name: "cifar10" or "cifar100".
        data_path: The unpacked folder (`cifar-10-batches-py`, `cifar-100-python`), or the folder that holds it or
            the archive as downloaded.
        image_size: Side to resize to; None keeps 32.

    Raises:
        BitdialError: The files are missing or differ from the published ones, or the download failed.
    """
    source: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    if data_path is None:
        with downloading(name):
            train, test = (source(cache_folder(), train=part, download=True) for part in (True, False))
    else:
        root = data_path.parent if data_path.resolve().name == source.base_folder else data_path
        # With the archive at hand "download" only unpacks it.
        unpack = (root / source.filename).is_file() and not (root / source.base_folder).is_dir()
        try:
            train, test = (source(root, train=part, download=unpack) for part in (True, False))
        except (OSError, RuntimeError) as error:
            raise BitdialError(_what_is_wrong(name, source, root)) from error
    return dataset_from_tensors(
        name,
        _tensors(train),
        _tensors(test),
        num_classes=len(train.classes),
        class_names=tuple(train.classes),
        image_size=image_size,
        flip=True,
    )


def _tensors(source: Any) -> tuple[Tensor, Tensor]:
    # torchvision keeps [N, H, W, C]
    return torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(source.targets)


def _what_is_wrong(name: str, source: Any, root: Path) -> str:
    folder = root / source.base_folder
    if not folder.is_dir():
        return (
            f"{name} not found in {root}; expected the folder {source.base_folder} or the archive {source.filename} "
            "there; leave data_path out to download it"
        )
    return (
        f"{name} in {folder} is incomplete or differs from the published files (their MD5 sums are checked); unpack "
        f"{source.filename} again"
    )
