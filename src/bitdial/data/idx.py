"""MNIST and Fashion-MNIST: four files in the IDX format, gzipped or plain."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from bitdial.data.dataset import ImageDataset, dataset_from_tensors
from bitdial.data.downloads import cache_folder, downloading
from bitdial.errors import BitdialError

# Where Debian's and Ubuntu's package `dataset-fashion-mnist` puts the files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_PARTS = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
          "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip


def load_mnist(data_path: Path | None, image_size: int | None) -> ImageDataset:
    """Load MNIST from `data_path`, or from the download cache (filled by torchvision when empty)."""
    return _load("mnist", datasets.MNIST, data_path, None, image_size, flip=False)


def load_fashion_mnist(data_path: Path | None, image_size: int | None) -> ImageDataset:
    """Load Fashion-MNIST from `data_path`, else from Debian's package, else from the download cache."""
    return _load("fashion-mnist", datasets.FashionMNIST, data_path, DEBIAN_FASHION_MNIST, image_size, flip=True)


def _load(
    name: str, source: Callable[..., object], data_path: Path | None, packaged: Path | None, image_size: int | None,
    *, flip: bool,
) -> ImageDataset:  # fmt: skip
    kind = getattr(source, "__name__", "")
    if data_path is not None:
        places = [data_path / each for each in (".", "raw", f"{kind}/raw")]
    else:
        places = [*([packaged] if packaged else []), cache_folder() / kind / "raw"]
    folder = next((place for place in places if _holds_all(place)), None)
    if folder is None and data_path is not None:
        raise BitdialError(
            f"{name} not found in {data_path}; expected the four files {', '.join(sum(_PARTS.values(), ()))} "
            f"(plain or .gz) there or in {kind}/raw below it; leave data_path out to download them"
        )
    if folder is None:
        with downloading(name):
            source(cache_folder(), download=True)
        folder = places[-1]
    splits = {key: (read_idx(folder / files[0]), read_idx(folder / files[1])) for key, files in _PARTS.items()}
    images = {key: value[0].unsqueeze(1) for key, value in splits.items()}
    return dataset_from_tensors(
        name,
        (images["train"], splits["train"][1]),
        (images["test"], splits["test"][1]),
        num_classes=10,
        class_names=tuple(getattr(source, "classes", ())) or None,
        image_size=image_size,
        flip=flip,
    )


def read_idx(path: Path) -> Tensor:
    """Read a file of unsigned bytes in the IDX format, from `path` or else from `path` + ".gz".

    The format: two zero bytes, the type code (8: unsigned byte), the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the values in C order (http://yann.lecun.com/exdb/mnist/).

    Returns:
        uint8 tensor of the shape that the file states.

    Raises:
        BitdialError: The file is not that, or is cut short.
    """
    zipped = path.with_name(path.name + ".gz")
    actual = path if path.is_file() else zipped
    try:
        content = gzip.decompress(actual.read_bytes()) if actual == zipped else actual.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BitdialError(f"cannot read {actual}: {error}; get the file again") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise BitdialError(f"{actual} is not an IDX file of bytes (it starts with {content[:4]!r}); get the file again")
    header = 4 + 4 * content[3]
    shape = tuple(int(each) for each in np.frombuffer(content[4:header], ">u4"))
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(shape) != content[3] or len(content) != expected:
        raise BitdialError(f"{actual} should hold {expected} bytes by its header, got {len(content)}; get it again")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def _holds_all(folder: Path) -> bool:
    names = [name for files in _PARTS.values() for name in files]
    return all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in names)
