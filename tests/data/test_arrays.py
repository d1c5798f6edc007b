"""Arrays of every type, shape and order of bytes come out right, or are answered by one sentence."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitdial.data import Split, dataset_from_tensors, load_dataset, make_loader
from bitdial.errors import BitdialError

LABELS = np.arange(20) % 4
RANDOM = np.random.default_rng(0)


def save(path: Path, **changes: Any) -> Path:
    x = RANDOM.integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)
    np.savez(path / "d.npz", **{"x_train": x, "y_train": LABELS, "x_test": x[:8], "y_test": LABELS[:8]} | changes)
    return path / "d.npz"


KINDS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "g", ">u2", ">u4", ">i8", ">f4", "<f8"]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_type(tmp_path: Path, kind: str, whole: bool) -> None:
    y = LABELS.astype(kind)
    if whole:
        path = tmp_path / "d.npz"
        np.savez(path, x=RANDOM.integers(0, 256, (20, 4, 4), dtype=np.uint8), y=y)
    else:
        path = save(tmp_path, y_train=y, y_test=y[:8])
    data = load_dataset("npz", path)
    both = torch.cat([data.train.labels, data.test.labels])
    assert both.dtype == torch.int64
    assert both.bincount().tolist() == ([5] * 4 if whole else [7] * 4)
    assert data.num_classes == 4


@pytest.mark.parametrize(
    "labels", [LABELS[:, None], np.eye(4)[LABELS], np.eye(4, dtype=bool)[LABELS], np.eye(4, dtype=np.uint16)[LABELS]]
)
def test_labels_of_other_shapes(tmp_path: Path, labels: np.ndarray) -> None:
    assert load_dataset("npz", save(tmp_path, y_train=labels)).train.labels.tolist() == LABELS.tolist()


def test_truth_values_are_two_classes(tmp_path: Path) -> None:
    truth = LABELS > 1
    data = load_dataset("npz", save(tmp_path, y_train=truth, y_test=truth[:8]))
    assert data.train.labels.tolist() == truth.astype(int).tolist()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "u1"])
def test_images_of_any_type_keep_their_values(tmp_path: Path, kind: str) -> None:
    x = RANDOM.integers(0, 100 if kind == "i1" else 2000, (20, 1, 4, 4)).astype(kind)
    data = load_dataset("npz", save(tmp_path, x_train=x, x_test=x[:8]))
    assert isinstance(data.train, Split)
    assert data.train.images.dtype == torch.float32
    assert np.array_equal(data.train.images.numpy(), x.astype(np.float32))
    batch, _ = next(iter(make_loader(data.train, 20, train=False)))
    assert float(batch.mean()) == pytest.approx(0, abs=1e-5)
    assert float(batch.std(correction=0)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "shape", [(6, 6), (6, 6, 1), (6, 6, 3), (6, 6, 4), (6, 6, 2), (8, 8, 5), (3, 6, 6), (2, 6, 6), (5, 8, 8)]
)
def test_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = RANDOM.integers(0, 256, (20, *shape), dtype=np.uint8)
    data = load_dataset("npz", save(tmp_path, x_train=x, x_test=x[:8]))
    assert isinstance(data.train, Split)
    expected = x[:, None] if x.ndim == 3 else x if x.shape[2] == x.shape[3] else x.transpose(0, 3, 1, 2)
    assert np.array_equal(data.train.images.numpy(), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.array(list("abcd") * 5)}, r"y_train in .*d\.npz must hold numbers, got the type <U1"),
        ({"y_train": np.array([{}] * 20)}, "holds Python objects, not numbers"),
        ({"y_train": LABELS.astype("M8[s]")}, "y_train in .* must hold numbers, got the type datetime64"),
        ({"y_train": LABELS + 0.5}, r"labels in y_train must be whole numbers from 0 up, got 0\.5 at sample 0"),
        ({"y_train": LABELS - 1}, "labels in y_train must be whole numbers from 0 up, got -1 at sample 0"),
        ({"y_train": np.full(20, 2**63 + 1, np.uint64)}, "labels in y_train must be whole numbers from 0 up"),
        ({"y_train": LABELS + 10**7}, "highest label in y_train is 10000003"),
        ({"y_test": LABELS[:8] + 1}, r"labels in y_test must be whole numbers in \[0, 4\), got 4 at sample 3"),
        ({"y_train": np.zeros(0)}, "y_train must be a non-empty vector"),
        ({"y_train": np.array(3)}, "y_train must be a non-empty vector"),
        ({"y_train": np.eye(4)[LABELS] * 0.9}, "y_train must hold one class number per image, or one-hot rows"),
        ({"y_train": LABELS[:, None].repeat(3, 1)}, "one-hot rows, got shape \\[20, 3\\]"),
        ({"x_train": np.zeros((0, 1, 4, 4), np.uint8)}, r"N > 0, got \[0, 1, 4, 4\]"),
        ({"x_test": np.zeros((0, 1, 4, 4), np.uint8), "y_test": LABELS[:0]}, r"x_test must be images .* N > 0"),
        ({"x_train": np.full((20, 1, 4, 4), np.nan, np.float16)}, "x_train holds nan at sample 0"),
        ({"x_train": np.zeros((20, 1, 4, 4), np.complex64)}, "x_train must hold real numbers"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BitdialError, match=message):
        load_dataset("npz", save(tmp_path, **changes))


def test_files_cut_short_anywhere(tmp_path: Path) -> None:
    whole = save(tmp_path).read_bytes()
    np.savez_compressed(tmp_path / "d.npz", x=RANDOM.integers(0, 99, (99, 8, 8)), y=np.arange(99) % 3)
    packed = (tmp_path / "d.npz").read_bytes()
    spoilt = bytearray(packed)
    spoilt[len(packed) // 2] ^= 0xFF
    torn = [content[: len(content) * tenth // 10] for content in (whole, packed) for tenth in range(10)]
    for content in (*torn, bytes(spoilt), pickle.dumps({"x": 1}), b"not an archive"):
        (tmp_path / "d.npz").write_bytes(content)
        with pytest.raises(BitdialError, match=r"d\.npz"):
            load_dataset("npz", tmp_path / "d.npz")
    with (tmp_path / "d.npz").open("wb") as file:
        np.save(file, LABELS)  # one array, not several
    with pytest.raises(BitdialError, match=r"d\.npz must hold several arrays"):
        load_dataset("npz", tmp_path / "d.npz")


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.int16, torch.bool, torch.float64, torch.bfloat16])
def test_tensors_of_any_type(dtype: torch.dtype) -> None:
    x, y = (torch.arange(20 * 16) % 50).reshape(20, 1, 4, 4).to(dtype), (torch.arange(20) % 2).to(dtype)
    data = dataset_from_tensors("t", (x, y), (x, y[:, None]))
    assert isinstance(data.train, Split)
    assert data.train.images.dtype == torch.float32
    assert torch.equal(data.train.images, x.to(torch.float32))
    assert data.test.labels.tolist() == [0, 1] * 10
