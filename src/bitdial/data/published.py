"""The published sets: digits, MNIST and Fashion-MNIST, CIFAR-10 and CIFAR-100; downloaded where they are not at hand.

A set is a loader that `register` gives its name.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitdial.data.cache import cache_folder
from bitdial.data.dataset import TEST_SHARE, ImageDataset, Request, register, stratified_split
from bitdial.data.tensors import dataset_from_tensors
from bitdial.errors import BitdialError

# Where Debian's and Ubuntu's package `dataset-fashion-mnist` puts the files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
# Images and labels to train on, images and labels to test on.
_PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def of_sklearn(told: str) -> Path:
    """The folder of the data that scikit-learn ships; its own readers would bring scipy and pandas, seconds of imports.

    Raises:
        BitdialError: it is not installed; the text begins with what is `told`.
    """
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise BitdialError(f"{told} with scikit-learn; run: pip install scikit-learn")
    return Path(found.origin).parent / "datasets"


@register("digits")
def load_digits(wanted: Request) -> ImageDataset:
    """Load the handwritten digits that ship with scikit-learn: 1,797 grey images of 8x8, no download.

    One fixed stratified division: about 80% of every class to train, 20% to test. It never changes with a seed, so
    that results over seeds share a test set. Grey levels 0..16 become 0..255.
    """
    if wanted.path is not None:
        raise BitdialError(f"the dataset 'digits' has no data_path, got {wanted.path}; leave it out")
    rows = np.loadtxt(of_sklearn("the dataset 'digits' comes") / "data" / "digits.csv.gz", delimiter=",")
    pixels = rows[:, :-1].reshape(-1, 1, 8, 8)
    images = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8))
    labels = torch.from_numpy(rows[:, -1].astype(np.int64))
    train, test = ((images[part], labels[part]) for part in stratified_split(labels, TEST_SHARE, seed=0))
    return dataset_from_tensors("digits", train, test, num_classes=10, image_size=wanted.image_size)


@register("fashion-mnist")
def load_fashion_mnist(wanted: Request) -> ImageDataset:
    """Load Fashion-MNIST from the given path, else from Debian's package, else from the download cache."""
    from torchvision import datasets

    return _load_idx(datasets.FashionMNIST, wanted, DEBIAN_FASHION_MNIST, flip=True)


@register("mnist")
def load_mnist(wanted: Request) -> ImageDataset:
    """Load MNIST from the given path, or from the download cache (filled by torchvision when empty)."""
    from torchvision import datasets

    return _load_idx(datasets.MNIST, wanted, None, flip=False)


def _load_idx(source: Callable[..., object], wanted: Request, packaged: Path | None, *, flip: bool) -> ImageDataset:
    """Load four files in the IDX format, gzipped or plain."""
    name, kind = wanted.name, getattr(source, "__name__", "")
    if wanted.path is not None:
        places = [wanted.path / each for each in (".", "raw", f"{kind}/raw")]
    else:
        places = [*([packaged] if packaged else []), cache_folder() / kind / "raw"]
    folder = next((place for place in places if _holds_all(place)), None)
    if folder is None and wanted.path is not None:
        raise BitdialError(
            f"{name} not found in {wanted.path}; expected the four files {', '.join(_PARTS)} "
            f"(plain or .gz) there or in {kind}/raw below it; leave data_path out to download them"
        )
    if folder is None:
        with downloading(name):
            source(cache_folder(), download=True)
        folder = places[-1]
    x_train, y_train, x_test, y_test = (read_idx(folder / part) for part in _PARTS)
    return dataset_from_tensors(
        name,
        (x_train.unsqueeze(1), y_train),
        (x_test.unsqueeze(1), y_test),
        num_classes=10,
        class_names=tuple(getattr(source, "classes", ())) or None,
        image_size=wanted.image_size,
        flip=flip,
    )


def read_idx(path: Path) -> Tensor:
    """Read a file of unsigned bytes in the IDX format, from `path` or else from `path` + ".gz".

    The format: two zero bytes, the type code (8: unsigned byte), the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the values in C order (http://yann.lecun.com/exdb/mnist/).

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
    return all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in _PARTS)


@register("cifar10", "cifar100")
def load_cifar(wanted: Request) -> ImageDataset:
    """Load "cifar10" or "cifar100" from the given path, or from the download cache (filled by torchvision when empty).

    The files are pickles; torchvision checks their MD5 sums before it opens them, so nothing but the original is
    unpickled. The path is that of the unpacked folder (`cifar-10-batches-py`, `cifar-100-python`), or of the folder
    that holds it or the archive as downloaded.
    """
    name = wanted.name
    from torchvision import datasets

    source: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    if wanted.path is None:
        with downloading(name):
            train, test = (source(cache_folder(), train=part, download=True) for part in (True, False))
    else:
        root = wanted.path.parent if wanted.path.resolve().name == source.base_folder else wanted.path
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
        image_size=wanted.image_size,
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


@contextmanager
def downloading(name: str) -> Iterator[None]:
    """Turn whatever goes wrong in a download into one sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        reason = " ".join(str(error).split())
        raise BitdialError(
            f"{name} is not in {cache_folder()} and downloading it failed ({reason}); check the network, or get the "
            "files by other means and give their folder as data_path"
        ) from error
