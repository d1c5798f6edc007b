"""Pictures of every kind come out as 8-bit RGB: deep, transparent, turned, in other colours, with several frames."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from bitdial.data import load_dataset
from bitdial.data.images import decode
from bitdial.errors import BitdialError

SIDE = 16
RAMP = np.linspace(0, 1, SIDE)[None].repeat(SIDE, 0)
DEEP = np.rint(RAMP * 65535).astype(np.uint16)
EIGHT = np.rint(RAMP * 255).astype(np.uint8)
WHITE, RED = [255, 255, 255], [220, 30, 40]


def read(path: Path) -> np.ndarray:
    return decode(path, SIDE).permute(1, 2, 0).numpy()


def netpbm(kind: str, most: int) -> bytes:
    values = np.rint(RAMP * most).astype(">u2" if most > 255 else np.uint8)
    if kind == "P6":
        values = values[..., None].repeat(3, 2)
    return f"{kind}\n{SIDE} {SIDE}\n{most}\n".encode() + values.tobytes()


def patched_tiff(values: np.ndarray, tag: int, value: int) -> bytes:
    """A TIFF with another value of a tag of one SHORT."""
    Image.fromarray(values).save(file := io.BytesIO(), "tiff")
    content = bytearray(file.getvalue())
    struct.pack_into("<H", content, content.find(struct.pack("<HHI", tag, 3, 1)) + 8, value)
    return bytes(content)


def tiff_of_12_bits() -> bytes:
    """Two samples in three bytes, as Pillow reads but does not write."""
    values = np.rint(RAMP * 4095).astype(np.uint16).reshape(-1, 2)
    packed = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], 1)
    content = bytearray(patched_tiff(DEEP, 258, 12))
    content[-DEEP.nbytes :] = packed.astype(np.uint8).tobytes()
    counts = content.find(struct.pack("<HHI", 279, 4, 1))
    struct.pack_into("<I", content, counts + 8, packed.size)
    return bytes(content)


def saved(values: np.ndarray, suffix: str) -> bytes:
    Image.fromarray(values).save(file := io.BytesIO(), suffix)
    return file.getvalue()


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("png", saved(DEEP, "png")),
        ("tiff", saved(DEEP, "tiff")),
        ("tiff", saved(DEEP.astype(">u2"), "tiff")),
        ("tiff", saved(DEEP.astype(np.int32), "tiff")),
        ("tiff", saved(RAMP.astype(np.float32), "tiff")),
        ("tiff", tiff_of_12_bits()),
        ("tiff", patched_tiff(65535 - DEEP, 262, 0)),  # white is zero
        ("pgm", netpbm("P5", 4095)),
        ("pgm", netpbm("P5", 65535)),
        ("pgm", netpbm("P5", 255)),
        ("ppm", netpbm("P6", 4095)),
        ("pfm", f"Pf\n{SIDE} {SIDE}\n-1.0\n".encode() + RAMP.astype("<f4").tobytes()),
    ],
)
def test_deep_pictures_are_scaled_by_their_range(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(content)
    off = np.abs(read(tmp_path / f"a.{suffix}").astype(int) - EIGHT[..., None])
    assert off.max() <= 1  # Pillow cuts colours off where we round


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(RAMP > 0.99, np.nan, RAMP).astype(np.float32), f"{SIDE} of its values are NaN or infinite"),
        (np.where(RAMP > 0.99, np.inf, RAMP).astype(np.float32), f"{SIDE} of its values are NaN or infinite"),
        ((RAMP * 255).astype(np.float32), "expected values from 0 to 1, got 0 to 255: scale them"),
        ((RAMP * 1e6).astype(np.int32), r"expected values from 0 to 65535, got 0 to 1e\+06: scale them"),
        ((RAMP * 100 - 50).astype(np.int32), "expected values from 0 to 65535, got -50 to 50"),
    ],
)
def test_values_without_a_known_range_are_refused_by_name(tmp_path: Path, values: np.ndarray, message: str) -> None:
    (tmp_path / "a.tif").write_bytes(saved(values, "tiff"))
    with pytest.raises(BitdialError, match=rf"cannot read the image .*a\.tif \({message}"):
        read(tmp_path / "a.tif")


def test_twelve_bits_in_files_of_sixteen_are_refused_as_a_whole(tmp_path: Path) -> None:
    for name, most in (("cat", 4095), ("dog", 4000)):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.fromarray(np.rint(RAMP * most).astype(np.uint16)).save(tmp_path / name / f"{number}.png")
    with pytest.raises(BitdialError, match=r"as if they held 12 bits.*maxval 4095, or give arrays as \.npz"):
        load_dataset("folder", tmp_path)
    Image.fromarray(DEEP).save(tmp_path / "cat" / "0.png")  # one that uses the range
    Image.fromarray(DEEP).save(tmp_path / "cat" / "1.png")
    assert load_dataset("folder", tmp_path).num_classes == 2


def alpha(mode: str) -> Image.Image:
    """Black of rising opacity."""
    channels = np.zeros((SIDE, SIDE, len(mode)), np.uint8)
    channels[..., -1] = EIGHT
    return Image.fromarray(channels, mode)


@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", "png"), ("LA", "png"), ("RGBA", "webp"), ("RGBA", "tiff")])
def test_transparent_pictures_are_blended_over_white(tmp_path: Path, mode: str, suffix: str) -> None:
    alpha(mode).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(read(tmp_path / f"a.{suffix}"), (255 - EIGHT)[..., None].repeat(3, 2))


def palette() -> Image.Image:
    """Red on the left, green on the right."""
    image = Image.fromarray((RAMP > 0.5).astype(np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0] + [0] * 762)
    return image


@pytest.mark.parametrize(
    ("save", "left", "right"),
    [
        (lambda path: palette().save(path / "a.png"), [255, 0, 0], [0, 255, 0]),
        (lambda path: palette().save(path / "a.png", transparency=0), WHITE, [0, 255, 0]),
        (lambda path: palette().save(path / "a.gif", transparency=0), WHITE, [0, 255, 0]),
        (lambda path: palette().save(path / "a.png", transparency=bytes([255, 128])), [255, 0, 0], [127, 255, 127]),
        (lambda path: Image.fromarray(EIGHT).save(path / "a.png", transparency=0), WHITE, WHITE),
        (
            lambda path: Image.fromarray(EIGHT).convert("RGB").save(path / "a.png", transparency=(0, 0, 0)),
            WHITE,
            WHITE,
        ),
        (lambda path: Image.fromarray(RAMP > 0.5).save(path / "a.png"), [0, 0, 0], WHITE),
        (lambda path: Image.fromarray(RAMP > 0.5).save(path / "a.pbm"), [0, 0, 0], WHITE),
        (lambda path: solid(RED).convert("CMYK").save(path / "a.tif"), RED, RED),
        (lambda path: solid(RED).convert("LAB").save(path / "a.tif"), [220, 29, 40], [220, 29, 40]),
    ],
)
def test_palettes_bits_and_other_colours(
    tmp_path: Path, save: Callable[[Path], None], left: list[int], right: list[int]
) -> None:
    save(tmp_path)
    pixels = read(next(tmp_path.iterdir()))
    assert [pixels[4, 0].tolist(), pixels[4, -1].tolist()] == [left, right]


def solid(colour: list[int]) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), tuple(colour))


def test_cmyk_of_a_jpeg(tmp_path: Path) -> None:
    solid(RED).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read(tmp_path / "a.jpg").astype(int) - RED).max() <= 2


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_of_several_frames_the_first_is_read(tmp_path: Path, suffix: str) -> None:
    more = {"save_all": True, "append_images": [solid([0, 0, 255])], **({"lossless": True} if suffix == "webp" else {})}
    solid([255, 0, 0]).save(tmp_path / f"a.{suffix}", **more)
    assert (read(tmp_path / f"a.{suffix}") == [255, 0, 0]).all()


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x, 2).T),
        (8, np.rot90),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_orientation(tmp_path: Path, orientation: int, turned: Callable[[np.ndarray], np.ndarray], deep: bool) -> None:
    values = np.triu(EIGHT) // 2 + np.arange(SIDE, dtype=np.uint8)[:, None]  # alike in no two positions
    if deep:
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[274] = orientation
        Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "a.tif", tiffinfo=tags)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read(next(tmp_path.iterdir()))[..., 0], turned(values))
