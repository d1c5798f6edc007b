"""Pictures of every kind come in as 8-bit colours and go out without loss; what is none is refused in a sentence."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bitdial.compression.pictures import read_picture, software_of, write_picture
from bitdial.errors import BitdialError

GENERATOR = np.random.default_rng(0)
COLOURS = GENERATOR.integers(0, 256, (5, 7, 3)).astype(np.uint8)
GREY = COLOURS[..., 0].copy()


DEEPER = ("values deeper than 8 bits were reduced to 8",)


def saved(folder: Path, image: Image.Image, name: str = "a.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def png(bits: int, kind: int, width: int, height: int, rows: bytes) -> bytes:
    """A PNG made by hand: of depths that Pillow does not write, or of a size that its data do not have."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "tiff", "webp", "PNG"])
def test_colours_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    picture = read_picture(saved(tmp_path, Image.fromarray(COLOURS)))
    assert np.array_equal(picture.pixels.permute(1, 2, 0), COLOURS)
    assert (picture.mode, picture.notes, picture.pixels.dtype) == ("RGB", (), torch.uint8)
    assert picture.pixels.is_contiguous()
    path = write_picture(tmp_path / f"back.{suffix}", picture.pixels, picture.mode)
    again = read_picture(path)
    assert torch.equal(again.pixels, picture.pixels)
    with Image.open(path) as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize("suffix", ["png", "bmp", "pgm", "tif", "webp"])
def test_grey_comes_back_grey(tmp_path: Path, suffix: str) -> None:
    picture = read_picture(saved(tmp_path, Image.fromarray(GREY)))
    assert picture.mode == "L"
    assert all(np.array_equal(channel, GREY) for channel in picture.pixels)
    path = write_picture(tmp_path / f"back.{suffix}", picture.pixels, picture.mode)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image.convert("L")), GREY)
        assert image.mode == ("RGB" if suffix == "webp" else "L")  # WebP knows no grey


@pytest.mark.parametrize(
    ("suffix", "said"), [("png", "a b"), ("webp", "a b"), ("tif", "a b"), ("bmp", ""), ("ppm", "")]
)
def test_what_a_picture_was_made_by(tmp_path: Path, suffix: str, said: str) -> None:
    pixels = torch.from_numpy(COLOURS).permute(2, 0, 1)
    path = write_picture(tmp_path / f"a.{suffix}", pixels, software="a b")
    assert software_of(path) == said
    assert torch.equal(read_picture(path).pixels, pixels)
    assert software_of(saved(tmp_path, Image.fromarray(GREY), f"b.{suffix}")) == ""
    (tmp_path / "c.png").write_text("no picture")
    assert software_of(tmp_path / "c.png") == software_of(tmp_path / "d.png") == ""


def test_other_modes(tmp_path: Path) -> None:
    colours = Image.fromarray(COLOURS)
    kinds = {
        "black and white": (Image.fromarray(GREY).convert("1"), "a.png", "L", ()),
        "palette": (colours.quantize(16), "a.png", "RGB", ()),
        "opaque": (colours.convert("RGBA"), "a.png", "RGB", ()),
        "CMYK": (colours.convert("CMYK"), "a.tif", "RGB", ("CMYK colours were converted to RGB",)),
        "LAB": (Image.new("LAB", (7, 5), (128, 0, 0)), "a.tif", "RGB", ("LAB colours were converted to RGB",)),
        "16-bit grey": (Image.fromarray(GREY.astype(np.uint16) * 257), "b.png", "L", DEEPER),
        "float": (Image.fromarray(GREY.astype(np.float32) / 255), "b.tif", "L", DEEPER),
    }
    for name, (image, file, mode, notes) in kinds.items():
        picture = read_picture(saved(tmp_path, image, file))
        assert (name, picture.mode, picture.notes) == (name, mode, notes)
        assert picture.pixels.shape == (3, 5, 7)
        if name in ("16-bit grey", "float"):
            assert np.array_equal(picture.pixels[0], GREY)


def test_16_bit_colours_are_cut_with_a_note(tmp_path: Path) -> None:
    values = GENERATOR.integers(0, 2**16, (3, 4, 3)).astype(">u2")
    (tmp_path / "deep.png").write_bytes(png(16, 2, 4, 3, b"".join(b"\0" + row.tobytes() for row in values)))
    picture = read_picture(tmp_path / "deep.png")
    assert picture.notes == DEEPER
    assert np.abs(picture.pixels.permute(1, 2, 0).numpy() - values / 257.0).max() <= 1


def test_transparency_is_blended_over_white_with_a_note(tmp_path: Path) -> None:
    for mode, grey in (("RGBA", "RGB"), ("LA", "L"), ("P", "RGB")):
        if mode == "P":
            image = Image.new("P", (7, 5), 0)
            image.putpalette([200, 10, 10])
            path = saved(tmp_path, image, transparency=0)
        else:
            values = (0, 128) if mode == "LA" else (0, 0, 0, 128)
            path = saved(tmp_path, Image.new(mode, (7, 5), values))
        picture = read_picture(path)
        assert picture.notes == ("transparency was blended over white",)
        assert picture.mode == grey
        assert picture.pixels.unique().tolist() == [255 if mode == "P" else 127]


def test_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn right by 90 degrees to show
    picture = read_picture(saved(tmp_path, Image.fromarray(COLOURS), exif=exif.tobytes()))
    assert picture.pixels.shape == (3, 7, 5)
    assert np.array_equal(picture.pixels.permute(1, 2, 0), np.rot90(COLOURS, -1))
    assert picture.notes == ()


def test_only_the_first_frame_with_a_note(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((5, 7), level, np.uint8)) for level in (10, 200, 90)]
    picture = read_picture(saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:]))
    assert picture.notes == ("only the first of 3 frames was taken",)
    assert picture.pixels.unique().tolist() == [10]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "cannot identify image file"),
        (b"words, not pixels", "cannot identify image file"),
        (b"\x89PNG\r\n\x1a\n", "cannot read the image"),
        (b"\x89bdc\x01" + bytes(40), "cannot identify image file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "cannot read the image"),
        (b"P6\n5 5\n255\nshort", "cannot read the image"),
        (b"P6\n0 5\n255\n", "cannot read the image"),
        (b"BM" + bytes(60), "cannot read the image"),
        (b"GIF89a", "cannot read the image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot identify image file"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(BitdialError, match=text) as caught:
        read_picture(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_cut_pictures_are_refused(tmp_path: Path, kind: str) -> None:
    large = Image.fromarray(GENERATOR.integers(0, 256, (60, 80, 3)).astype(np.uint8))
    path = saved(tmp_path, large, f"a.{kind}")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BitdialError, match="cannot read the image"):
        read_picture(path)


@pytest.mark.parametrize("path", [None, 3, b"a.png", ["a.png"]])
def test_a_path_must_be_one(path: Any) -> None:
    with pytest.raises(BitdialError, match="path must be the path of a picture"):
        read_picture(path)
    with pytest.raises(BitdialError, match="path must be the path of a picture"):
        write_picture(path, torch.zeros(3, 1, 1, dtype=torch.uint8))


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.png"):
        with pytest.raises(BitdialError, match="cannot read the image"):
            read_picture(str(path))


@pytest.mark.parametrize("side", [8193, 10_000, 30_000, 2**31 - 1])
def test_decompression_bombs_are_refused_from_their_header(tmp_path: Path, side: int) -> None:
    """A small file that claims many pixels: below and above the sizes at which Pillow warns and refuses."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png(8, 2, side, side, bytes(100)))
    with pytest.raises(BitdialError, match=r"at most 67108864 pixels, got|exceeds limit of|cannot read the image"):
        read_picture(path)
    with ThreadPoolExecutor(4) as pool, warnings.catch_warnings():
        before = list(warnings.filters)
        for refused in pool.map(lambda _: _refused(path), range(20)):
            assert refused
        assert warnings.filters == before


def _refused(path: Path) -> bool:
    try:
        read_picture(path)
    except BitdialError:
        return True
    return False


def test_the_caller_sets_the_limit(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(COLOURS))
    assert read_picture(path, max_pixels=35).pixels.shape == (3, 5, 7)
    with pytest.raises(BitdialError, match="must have at most 34 pixels, got 7 x 5; scale or cut it"):
        read_picture(path, max_pixels=34)
    for limit in (0, 1.5, True, None):
        with pytest.raises(BitdialError, match="max_pixels must be a whole number of at least 1"):
            read_picture(path, max_pixels=limit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "pixels", "mode", "text"),
    [
        (
            "a.jpg",
            torch.zeros(3, 2, 2, dtype=torch.uint8),
            "RGB",
            r"a.jpg must end in one of .png, .bmp, .* every pixel",
        ),
        ("a", torch.zeros(3, 2, 2, dtype=torch.uint8), "RGB", "must end in one of"),
        ("a.png", torch.zeros(3, 2, 2, dtype=torch.uint8), "CMYK", 'mode must be "RGB" or "L", got \'CMYK\''),
        ("a.png", torch.zeros(3, 2, 2, dtype=torch.uint8), None, "got None"),
        ("a.png", torch.zeros(3, 2, 2), "RGB", r"uint8 tensor \[3, H, W\], got torch.float32 \(3, 2, 2\)"),
        ("a.png", torch.zeros(1, 2, 2, dtype=torch.uint8), "L", r"got torch.uint8 \(1, 2, 2\)"),
        ("a.png", torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "L", r"got torch.uint8 \(1, 3, 2, 2\)"),
        ("a.png", torch.zeros(3, 0, 2, dtype=torch.uint8), "RGB", r"got torch.uint8 \(3, 0, 2\)"),
        ("a.png", np.zeros((3, 2, 2), np.uint8), "RGB", "got ndarray"),
        ("a.png", None, "RGB", "got NoneType"),
        ("a.webp", torch.zeros(3, 1, 20_000, dtype=torch.uint8), "RGB", "a.webp cannot be written"),
        ("file/a.png", torch.zeros(3, 2, 2, dtype=torch.uint8), "RGB", "a.png cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, pixels: Any, mode: Any, text: str) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(BitdialError, match=text):
        write_picture(tmp_path / name, pixels, mode)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_views_of_pixels_are_written(tmp_path: Path) -> None:
    large = torch.from_numpy(COLOURS).permute(2, 0, 1)
    path = write_picture(tmp_path / "part.png", large[:, 1:4, ::2])
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert np.array_equal(np.asarray(image), COLOURS[1:4, ::2])
