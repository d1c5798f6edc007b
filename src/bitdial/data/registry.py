"""Datasets by name."""

from __future__ import annotations

from pathlib import Path

from bitdial.data.arrays import load_arrays
from bitdial.data.cifar import load_cifar
from bitdial.data.dataset import ImageDataset
from bitdial.data.digits import load_digits
from bitdial.data.folder import load_folder
from bitdial.data.idx import load_fashion_mnist, load_mnist
from bitdial.data.randomness import check_seed
from bitdial.data.resizing import check_image_size
from bitdial.errors import BitdialError, suggest

DATASETS = ("digits", "fashion-mnist", "mnist", "cifar10", "cifar100", "folder", "npz")


def load_dataset(
    name: str,
    data_path: str | Path | None = None,
    *,
    image_size: int | None = None,
    seed: int = 0,
    memory_limit: int = 2 << 30,
) -> ImageDataset:
    """Load a dataset of images.

    Args:
        name: One of `DATASETS`; hyphens and underscores are the same.
        data_path: Where the data is. "folder" and "npz" need it, "digits" has none; the others look only there when
            it is given, and otherwise download to a cache.
        image_size: Side in pixels to resize to (shorter side, then the centre); None keeps the images' own.
        seed: Chooses the held-out part where the data has no test set of its own ("folder", "npz").
        memory_limit: Bytes up to which the decoded images of a folder are held in memory; beyond, they are decoded
            when used. 2 GiB by default.

    Raises:
        BitdialError: An unknown name, or data that is missing, damaged or of the wrong shape; one sentence says which.
    """
    check_image_size(image_size)
    check_seed(seed)
    path = None if data_path is None else Path(data_path).expanduser()
    match name.lower().replace("_", "-"):
        case "digits":
            if path is not None:
                raise BitdialError(f"the dataset 'digits' has no data_path, got {data_path}; leave it out")
            return load_digits(image_size)
        case "mnist":
            return load_mnist(path, image_size)
        case "fashion-mnist":
            return load_fashion_mnist(path, image_size)
        case "cifar10" | "cifar100" as cifar:
            return load_cifar(cifar, path, image_size)
        case "folder":
            return load_folder(path, image_size, seed, memory_limit)
        case "npz":
            return load_arrays(path, image_size, seed)
        case _:
            raise BitdialError(f"unknown dataset {name!r}; known are {', '.join(DATASETS)}{suggest(name, DATASETS)}")
