"""Datasets on disk that several tests read."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from tests.data.files import write_images


@pytest.fixture
def cifar10_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray]:
    """CIFAR-10's own layout with eight images a batch, whose sums torchvision is told to expect."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)

    def write(name: str, content: dict[str, object]) -> list[str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    pixels = random.integers(0, 256, (6, 8, 3072), dtype=np.uint8)
    sums = [
        write(name, {"data": part, "labels": [(i * 3) % 10 for i in range(8)]})
        for name, part in zip([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], pixels, strict=True)
    ]
    meta = write("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return folder, pixels


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes, six training and three validation images each, 12x12."""
    root = tmp_path / "pictures"
    for place, count, shift in (("train", 6, 0), ("val", 3, 100)):
        write_images(root / place / "cat", count, base=shift)
        write_images(root / place / "dog", count, base=shift + 50)
    return root
