"""Every mistake is answered by one sentence: what was expected, what was got, what to do."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from bitdial.data import dataset_from_tensors, load_dataset, make_loader
from bitdial.errors import BitdialError
from tests.data.files import write_images


def arrays(**changes: Any) -> dict[str, Any]:
    x = np.random.default_rng(0).normal(size=(20, 1, 4, 4)).astype(np.float32)
    y = np.arange(20) % 4
    return {"x_train": x, "y_train": y, "x_test": x[:8].copy(), "y_test": y[:8]} | changes


def changed(key: str, index: Any, value: float) -> dict[str, Any]:
    result = arrays()
    result[key] = result[key].copy()
    result[key][index] = value
    return result


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("x_train", (17, 0, 3, 2), np.nan), r"x_train holds nan at sample 17 .*\[0, 3, 2\].* 1 of its 20"),
        (changed("x_test", (2, 0, 0, 1), -np.inf), r"x_test holds -inf at sample 2"),
        (arrays(x_train=np.full((20, 1, 4, 4), 1e300)), r"x_train holds inf at sample 0"),
        (changed("y_test", 5, 4), r"labels in y_test must be whole numbers in \[0, 4\), got 4 at sample 5"),
        (changed("y_train", 3, -1), r"labels in y_train must .* got -1 at sample 3"),
        (arrays(y_train=np.arange(20) / 5), r"labels in y_train must be whole numbers .* got 0\.2 at sample 1"),
        (arrays(y_train=np.full(20, np.nan)), r"labels in y_train must be whole numbers .* got nan at sample 0"),
        (arrays(y_train=np.arange(19) % 4), r"y_train must hold one label per image, shape \[20\], got \[19\]"),
        (
            arrays(y_train=np.full((20, 4), 0.25)),
            r"y_train must hold one class .* one-hot rows, got shape \[20, 4\]",
        ),
        (arrays(x_train=np.zeros((20, 1, 4, 4), np.complex64)), r"x_train must hold real numbers"),
        (arrays(x_train=np.zeros((20, 16))), r"x_train must have shape .* got \[20, 16\]"),
        (arrays(x_test=np.zeros((8, 3, 4, 4), np.float32)), r"must agree in type and channels"),
        (arrays(x_test=np.zeros((8, 1, 4, 4), np.uint8)), r"must agree in type and channels"),
        (
            arrays(x_test=np.zeros((8, 1, 5, 5), np.float32)),
            r"square and of one size, got 4x4 and 5x5; resize them, or give image_size",
        ),
        (arrays(x_train=np.zeros((0, 1, 4, 4)), y_train=np.zeros(0)), r"N > 0, got \[0, 1, 4, 4\]"),
        ({"x_train": np.zeros((2, 4, 4)), "y_trian": np.zeros(2)}, r"lacks y_train, .*did you mean 'y_trian'"),
        ({"x": np.zeros((3, 4, 4)), "y": np.arange(3)}, r"no class has enough of the 3 images"),
        ({"x": np.zeros((3, 4, 4)), "y": np.arange(2)}, r"y must hold one label per image, shape \[3\], got \[2\]"),
        (arrays(y_train=np.array([{}] * 20)), r"holds Python objects, not numbers"),
    ],
)
def test_array_files(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "data.npz", **content)
    with pytest.raises(BitdialError, match=message):
        load_dataset("npz", tmp_path / "data.npz")


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    broken, pickled, text = tmp_path / "a.npz", tmp_path / "b.pt", tmp_path / "c.csv"
    broken.write_bytes(b"PK no zip")
    torch.save([torch.ones(2)], pickled)
    text.write_text("1,2")
    for path, message in ((broken, "cannot read|Python objects"), (pickled, "dict of tensors, got list"),
                          (text, r"must be a \.npz or \.pt file, got c\.csv"),
                          (tmp_path / "d.npz", "no file .*d.npz")):  # fmt: skip
        with pytest.raises(BitdialError, match=message):
            load_dataset("npz", path)


def test_truncated_torch_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"x": torch.zeros(100, 100)}, path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BitdialError, match=r"cannot read .*a\.pt"):
        load_dataset("npz", path)


def test_names_and_places() -> None:
    with pytest.raises(BitdialError, match=r"unknown dataset 'cifar11'; known are digits, .*; did you mean 'cifar10'"):
        load_dataset("cifar11")
    for name, clue in (("mnist", "four files"), ("fashion-mnist", "four files"), ("cifar100", "cifar-100-python"),
                       ("folder", "train/CLASS"), ("npz", "x_train")):  # fmt: skip
        with pytest.raises(BitdialError, match=rf"/not/here.*expected .*{clue}"):
            load_dataset(name, "/not/here")
    with pytest.raises(BitdialError, match="'digits' has no data_path"):
        load_dataset("digits", "here")
    for name in ("folder", "npz"):
        with pytest.raises(BitdialError, match="needs data_path"):
            load_dataset(name)
    with pytest.raises(BitdialError, match="seed must be"):
        load_dataset("digits", seed=0.5)  # type: ignore[arg-type]
    for size in (0, -8, 2.5, True):
        with pytest.raises(BitdialError, match="image_size must be a whole number"):
            load_dataset("digits", image_size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_failed_download_says_where_the_files_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("BITDIAL_DATA", str(tmp_path))

    def fail(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(datasets, name.upper(), fail)
    with pytest.raises(BitdialError, match=rf"{re.escape(str(tmp_path))}.*no route to host.*give their folder as data"):
        load_dataset(name)


@pytest.mark.parametrize("memory_limit", [1 << 30, 0])
def test_an_unreadable_image_is_named(image_folder: Path, memory_limit: int) -> None:
    bad = image_folder / "train" / "cat" / "001.png"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    noise.save(whole := io.BytesIO(), "png")
    for content in (b"not an image", whole.getvalue()[:1500]):
        bad.write_bytes(content)
        with pytest.raises(BitdialError, match=r"cannot read the image .*train/cat/001\.png .*replace or remove it"):
            load_dataset("folder", image_folder, image_size=8, memory_limit=memory_limit)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_goes_bad_later_is_named_without_a_workers_traceback(image_folder: Path, workers: int) -> None:
    data = load_dataset("folder", image_folder, image_size=8, memory_limit=0)
    (image_folder / "val" / "dog" / "002.png").write_bytes(b"")
    with pytest.raises(BitdialError) as caught:
        list(make_loader(data.test, 2, train=False, workers=workers))
    assert "val/dog/002.png" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def _empty_class(root: Path) -> None:
    (root / "train" / "emu").mkdir()


def _strange_class(root: Path) -> None:
    write_images(root / "val" / "elk", 2)


def _mixed_sizes(root: Path) -> None:
    write_images(root / "train" / "dog", 2, size=(9, 12))


def _no_validation(root: Path) -> None:
    (root / "val").rename(root / "something")


def _no_classes(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_empty_class, r"class folder .*train/emu holds no image that can be read; add images or remove it"),
        (_strange_class, r"val holds the class 'elk', which the training folder lacks \(it has cat, dog\)"),
        (_mixed_sizes, r"got 2 sizes, 12x12 in 16 of 18 images; resize them, or give image_size"),
        (_no_validation, r"has a folder train but none of val, test"),
        (_no_classes, r"no class folders in .*pictures"),
    ],
)
def test_image_folders(image_folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(image_folder)
    with pytest.raises(BitdialError, match=message):
        load_dataset("folder", image_folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1 up, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number from 1 up, got 2.0"),
        ({"seed": -1}, r"seed must be a whole number in \[0, 2\*\*63\), got -1"),
        ({"workers": -1}, "workers must be a whole number from 0 up, got -1"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, 2\) for 2 processes, got 2"),
        ({"world_size": 30}, "20 samples cannot be shared by 30 processes"),
        ({"augment": "standart"}, "augment must be one of none, standard .* did you mean 'standard'"),
    ],
)
def test_loader_arguments(arguments: dict[str, Any], message: str) -> None:
    images, labels = torch.zeros(20, 1, 4, 4), torch.arange(20) % 2
    split = dataset_from_tensors("t", (images, labels), (images, labels)).train
    with pytest.raises(BitdialError, match=message):
        make_loader(split, **({"batch_size": 4, "train": True} | arguments))
    loader = make_loader(split, 4, train=True)
    for start in (-1, 6):
        with pytest.raises(BitdialError, match=f"cannot start at batch {start}: the epoch has 5 batches"):
            loader.start_at(start)
    with pytest.raises(BitdialError, match="epoch must be 0 or more, got -1"):
        loader.set_epoch(-1)
