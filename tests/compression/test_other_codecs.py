"""JPEG, WebP and AVIF as Pillow writes them: known sizes and PSNRs, the file of a size, what is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bitdial.compression.metrics import bpp, psnr
from bitdial.compression.other_codecs import (
    OtherFile,
    available_kinds,
    decode_other,
    encode_other,
    nearest_in_size,
)
from bitdial.errors import BitdialError
from tests.compression.photographs import photograph

each_kind = pytest.mark.parametrize("kind", available_kinds())


# Measured by others' calls of Pillow 12.3, on whole photographs.
@pytest.mark.parametrize(
    ("name", "kind", "quality", "rate", "decibels"),
    [
        ("china", "JPEG", 10, 0.343, 22.71),
        ("china", "JPEG", 30, 0.809, 25.43),
        ("china", "WebP", 10, 0.445, 24.71),
        ("flower", "WebP", 10, 0.162, 30.75),
        ("flower", "AVIF", 20, 0.124, 30.51),
        ("flower", "AVIF", 40, 0.236, 33.24),
    ],
)
def test_known_sizes_and_errors(name: str, kind: str, quality: int, rate: float, decibels: float) -> None:
    if kind not in available_kinds():
        pytest.skip("this Pillow lacks it")
    pixels = photograph(name)
    file = encode_other(pixels, kind, quality)
    back = decode_other(file.data)
    found = psnr(pixels[None].double() / 255, back[None].double() / 255).item()
    assert bpp(len(file.data), *pixels.shape[-2:]) == pytest.approx(rate, rel=0.03)
    assert found == pytest.approx(decibels, abs=0.15)
    assert (file.kind, file.quality) == (kind, quality)
    assert file.seconds > 0


@each_kind
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (61, 37)])
def test_pixels_come_back_in_their_shape_and_order(kind: str, mode: str, size: tuple[int, int]) -> None:
    pixels = torch.tensor([200, 90, 20], dtype=torch.uint8).view(3, 1, 1).expand(3, *size)
    back = decode_other(encode_other(pixels, kind, 90, mode).data, mode)
    luma = round(0.299 * 200 + 0.587 * 90 + 0.114 * 20)
    expected = pixels if mode == "RGB" else torch.full((3, *size), luma, dtype=torch.uint8)
    assert (back.dtype, back.shape, back.is_contiguous()) == (torch.uint8, pixels.shape, True)
    assert (back.int() - expected.int()).abs().max() <= 6
    assert mode == "RGB" or torch.equal(back[0], back[2])


@each_kind
def test_the_same_bytes_every_time(kind: str) -> None:
    pixels = photograph("china", 64, 96)
    assert encode_other(pixels, kind, 40).data == encode_other(pixels.clone(), kind, 40).data


def test_grey_files_are_grey() -> None:
    with Image.open(io.BytesIO(encode_other(photograph("china", 40, 40), "JPEG", 50, "L").data)) as image:
        assert image.mode == "L"


@each_kind
def test_the_file_nearest_in_size(kind: str) -> None:
    pixels = photograph("china", 96, 128)
    sizes = {quality: len(encode_other(pixels, kind, quality).data) for quality in (30, 50, 65)}
    for quality, size in sizes.items():
        nearest = nearest_in_size(lambda quality: encode_other(pixels, kind, quality), size)
        assert abs(len(nearest.file.data) - size) <= 0.01 * size
        assert abs(nearest.file.quality - quality) <= 3  # sizes do not grow from every quality to the next
        assert nearest.limit is None


def write(quality: int) -> OtherFile:
    return OtherFile("JPEG", quality, bytes(100 + 10 * quality), 0.0)


@pytest.mark.parametrize(
    ("size", "quality", "limit"),
    [
        (1, 0, "smallest"),
        (99, 0, "smallest"),
        (100, 0, None),
        (104, 0, None),
        (106, 1, None),
        (600, 50, None),
        (604, 50, None),
        (1096, 100, None),
        (1100, 100, None),
        (1101, 100, "largest"),
        (10**9, 100, "largest"),
    ],
)
def test_every_size_is_met_as_nearly_as_can_be(size: int, quality: int, limit: str | None) -> None:
    asked = []
    nearest = nearest_in_size(lambda quality: asked.append(quality) or write(quality), size)  # type: ignore[func-returns-value]
    assert (nearest.file.quality, nearest.limit) == (quality, limit)
    assert len(asked) == len({*asked}) <= 7


def test_one_without_avif(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.delitem(Image.SAVE, "AVIF", raising=False)
    assert available_kinds() == ("JPEG", "WebP")
    with pytest.raises(BitdialError, match="Pillow must be able to write AVIF, this one cannot; run: pip install"):
        encode_other(photograph("china", 8, 8), "AVIF", 50)


def grey(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.full(shape, 100, dtype=dtype)


BAD: dict[str, tuple[Any, str]] = {
    # A tired user.
    "another case": (
        lambda: encode_other(grey(3, 4, 4), "jpeg", 50),
        "one of JPEG, WebP, AVIF, got 'jpeg'; did you mean 'JPEG'",
    ),
    "PNG": (lambda: encode_other(grey(3, 4, 4), "PNG", 50), "got 'PNG'"),
    "a percentage as a fraction": (lambda: encode_other(grey(3, 4, 4), "JPEG", 0.9), "quality must be a whole number"),  # type: ignore[arg-type]
    "too good": (lambda: encode_other(grey(3, 4, 4), "JPEG", 101), "from 0 to 100, got 101"),
    "floats": (lambda: encode_other(grey(3, 4, 4, dtype=torch.float32), "JPEG", 50), r"uint8 tensor \[3, H, W\], got"),
    "one channel": (lambda: encode_other(grey(1, 4, 4), "JPEG", 50), r"got torch.uint8 \(1, 4, 4\)"),
    "channels last": (lambda: encode_other(grey(4, 4, 3), "JPEG", 50), r"got torch.uint8 \(4, 4, 3\)"),
    "a batch": (lambda: encode_other(grey(1, 3, 4, 4), "JPEG", 50), r"\(1, 3, 4, 4\)"),
    "an array": (lambda: encode_other(np.zeros((3, 4, 4), np.uint8), "JPEG", 50), "got ndarray"),  # type: ignore[arg-type]
    "a path": (lambda: decode_other("a.jpg"), "data must be bytes .*got str"),  # type: ignore[arg-type]
    "a size in bpp": (lambda: nearest_in_size(write, 0.3), "size must be a whole number"),  # type: ignore[arg-type]
    "transparent": (lambda: encode_other(grey(3, 4, 4), "JPEG", 50, "RGBA"), 'mode must be "RGB" or "L"'),
    # A hostile one.
    "nothing": (lambda: encode_other(grey(3, 0, 4), "JPEG", 50), r"\(3, 0, 4\)"),
    "no kind": (lambda: encode_other(grey(3, 4, 4), None, 50), "got None"),  # type: ignore[arg-type]
    "kinds": (lambda: encode_other(grey(3, 4, 4), ["JPEG"], 50), r"got \['JPEG'\]"),  # type: ignore[arg-type]
    "below": (lambda: encode_other(grey(3, 4, 4), "JPEG", -1), "got -1"),
    "True": (lambda: encode_other(grey(3, 4, 4), "JPEG", True), "got True"),
    "NaN": (lambda: encode_other(grey(3, 4, 4), "JPEG", float("nan")), "got nan"),  # type: ignore[arg-type]
    "too wide": (lambda: encode_other(grey(3, 1, 16384), "WebP", 50), "WebP cannot hold a picture of 16384 x 1 "),
    "no file": (lambda: decode_other(b""), "data must be a whole JPEG, WebP or AVIF file"),
    "text": (lambda: decode_other(b"hello" * 99), "data must be a whole"),
    "another format": (lambda: decode_other(b"P5 1 1 255\n\x00"), "data must be a whole"),
    "cut": (lambda: decode_other(encode_other(photograph("china", 64, 64), "JPEG", 90).data[:900]), "must be a whole"),
    "cut WebP": (lambda: decode_other(encode_other(photograph("china", 64, 64), "WebP", 90).data[:900]), "be a whole"),
    "another mode": (lambda: decode_other(b"", "CMYK"), "'CMYK'"),
    "no size": (lambda: nearest_in_size(write, 0), "size must be a whole number of at least 1, got 0"),
    "infinite": (lambda: nearest_in_size(write, float("inf")), "got inf"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case: str) -> None:
    call, says = BAD[case]
    with pytest.raises(BitdialError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
