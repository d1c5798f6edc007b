"""What lies in a folder of images besides images, kinds that are read or left out, and classes that are no classes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from bitdial.data import load_dataset
from bitdial.errors import BitdialError
from tests.data.files import write_images


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of ten images."""
    root = tmp_path / "pictures"
    write_images(root / "cat", 10)
    write_images(root / "dog", 10, base=100)
    return root


def found(root: Path) -> set[str]:
    data = load_dataset("folder", root)
    assert data.train.files is not None
    assert data.test.files is not None
    return {name for name, _ in (*data.train.files, *data.test.files)}


def test_what_is_hidden_is_passed_over(pictures: Path) -> None:
    before = found(pictures)
    for name in (".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "cat/.ipynb_checkpoints", "cat/__MACOSX"):
        write_images(pictures / name, 1)
    shutil.copy(pictures / "cat" / "000.png", pictures / "cat" / ".hidden.png")
    (pictures / "cat" / "._000.png").write_bytes(b"\0\5\x16\7 of a Mac")
    (pictures / "cat" / ".DS_Store").write_bytes(b"Bud1")
    (pictures / "dog" / "Thumbs.db").write_bytes(b"of Windows")
    (pictures / "readme.txt").write_text("about cats")
    data = load_dataset("folder", pictures)
    assert found(pictures) == before
    assert data.class_names == ("cat", "dog")
    assert data.notes == ()


def test_hidden_folders_in_parts(image_folder: Path) -> None:
    for part in ("train", "val"):
        write_images(image_folder / part / ".ipynb_checkpoints", 1)
    assert load_dataset("folder", image_folder).class_names == ("cat", "dog")


def test_folders_below_a_class_belong_to_it(pictures: Path) -> None:
    write_images(pictures / "cat" / "siamese", 2, base=50)
    assert "cat/siamese/001.png" in found(pictures)


@pytest.mark.parametrize(
    "suffix", ["gif", "avif", "jfif", "jpe", "JPG", "bmp", "dib", "tga", "jp2", "ppm", "qoi", "tiff", "webp"]
)
def test_kinds_that_pillow_opens_are_read(pictures: Path, suffix: str) -> None:
    try:
        Image.new("RGB", (12, 12), (90, 7, 9)).save(pictures / "cat" / f"new.{suffix}")
    except (OSError, KeyError, ValueError):
        pytest.skip("not in this Pillow")
    assert f"cat/new.{suffix}" in found(pictures)


def test_kinds_that_cannot_be_read_are_counted(pictures: Path) -> None:
    for name in ("cat/a.heic", "cat/b.HEIC", "dog/c.svg", "dog/d.dng", "dog/e.txt", "dog/f.json", "dog/._g.heic"):
        (pictures / name).write_bytes(b"?")
    (note,) = load_dataset("folder", pictures).notes
    assert note == "Images of kinds that cannot be read were left out (1 .dng, 2 .heic, 1 .svg); convert them to PNG."


def _only_heic(root: Path) -> None:
    (root / "emu").mkdir()
    (root / "emu" / "a.heic").write_bytes(b"?")


def _case(root: Path) -> None:
    write_images(root / "Cat", 2)


def _capital_parts(root: Path) -> None:
    (root / "cat").rename(root / "Train")
    (root / "dog").rename(root / "Val")


def _nothing_but_hidden(root: Path) -> None:
    shutil.rmtree(root / "cat")
    shutil.rmtree(root / "dog")
    write_images(root / ".git", 2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_only_heic, "the class folder .*emu holds no image that can be read; add images or remove it"),
        (_case, "holds classes that differ in capital letters alone: Cat, cat; merge or rename them"),
        (_capital_parts, "expected the folders train and val in .*, got Train, Val; rename them"),
        (_nothing_but_hidden, "no class folders in"),
    ],
)
def test_folders_that_are_refused(pictures: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(pictures)
    with pytest.raises(BitdialError, match=message):
        load_dataset("folder", pictures)


def test_classes_without_a_test_image_are_named(pictures: Path) -> None:
    write_images(pictures / "emu", 1, base=50)
    write_images(pictures / "fox", 2, base=60)
    assert load_dataset("folder", pictures).notes == ("Classes without an image to test on: emu, fox (2 of 4).",)


def test_classes_without_a_test_image_of_ones_own_are_named(image_folder: Path) -> None:
    shutil.rmtree(image_folder / "val" / "cat")
    (image_folder / "val" / "cat").mkdir()
    assert load_dataset("folder", image_folder).notes == ("Classes without an image to test on: cat (1 of 2).",)


def test_a_link_to_a_folder_above_it_is_not_followed(pictures: Path) -> None:
    before = found(pictures)
    (pictures / "cat" / "again").symlink_to(".")
    (pictures / "dog" / "all").symlink_to("..")
    assert found(pictures) == before
    (pictures / "cat" / "puppies").symlink_to("../dog")  # of another place: a folder like any other
    assert "cat/puppies/003.png" in found(pictures)


def test_a_class_whose_name_is_not_utf_8_is_refused(pictures: Path) -> None:
    (pictures / "cat").rename(Path(os.fsdecode(os.fsencode(pictures) + b"/\xff")))
    with pytest.raises(BitdialError, match=r"holds a class whose name is not UTF-8, \\xff; rename its folder"):
        load_dataset("folder", pictures)
