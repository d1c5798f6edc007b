"""Small datasets in the real file formats, written by the tests."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image

IDX_NAMES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
             "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, *, zipped: bool, counts: tuple[int, int] = (20, 10)) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    written = {}
    for (split, names), count in zip(IDX_NAMES.items(), counts, strict=True):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, array in zip(names, (images, labels), strict=True):
            content = idx_bytes(array)
            path = folder / (name + ".gz" if zipped else name)
            path.write_bytes(gzip.compress(content) if zipped else content)
        written[split] = images
    return written


def write_images(folder: Path, count: int, size: tuple[int, int] = (12, 12), base: int = 0) -> None:
    """PNG files in one class folder, each of its own flat colour (base + number, green 7, blue 9)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", size, (base + number, 7, 9)).save(folder / f"{number:03}.png")
