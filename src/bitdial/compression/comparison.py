"""A codec beside other kinds of files, on the same pictures: bits per pixel, PSNR, MS-SSIM, seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from bitdial.compression.codec import Codec
from bitdial.compression.codec_points import Part, Point
from bitdial.compression.coding.arrays import check_whole
from bitdial.compression.metrics import bpp, most_scales, ms_ssim, psnr
from bitdial.compression.other_codecs import (
    BEST,
    KINDS,
    Limit,
    OtherFile,
    available_kinds,
    check_kind,
    decode_other,
    encode_other,
    nearest_in_size,
)
from bitdial.compression.pictures import Picture, shown
from bitdial.errors import BitdialError

QUALITIES = (2, 5, 11, 24, 50, 75, 88)
"""Qualities of a curve. The bisection for a size asks for the same ones, which are then written once."""


@dataclass(frozen=True)
class CodecComparison:
    """The points of all pictures, and what is to be known to read them rightly."""

    points: tuple[Point, ...]
    notes: tuple[str, ...]


def compare(
    codec: Codec,
    pictures: Iterable[tuple[str, Picture]],
    *,
    name: str = "bitdial",
    quality: float | None = None,
    kinds: Sequence[str] = KINDS,
    qualities: Sequence[int] = QUALITIES,
) -> CodecComparison:
    """Measure a codec, and other kinds of files at the same size and along a curve, picture by picture.

    The codec's files are real ones: what is measured is decoded from their bytes, and must be what `Codec.reconstruct`
    gives. Grey pictures are measured as they are written: by their luma. A kind that Pillow lacks here, or that has no
    room for a picture, is left out with a note.

    Args:
        codec: one's own.
        pictures: names, each once, and pictures; they are asked for one after the other, so that one is held at a time.
        name: what points call the codec.
        quality: what the codec was trained for, such as lambda.
        kinds: of `KINDS`; none of them: one's own codec alone.
        qualities: of the curves, from 0 to 100; none: files of the same size alone.

    Raises:
        BitdialError: no pictures, names that repeat, an unknown kind or quality, or a codec that cannot take a picture.
    """
    _check(codec, name, quality, kinds, qualities)
    points, seen, present = list[Point](), set[str](), available_kinds()
    notes = [
        f"{kind} was left out: the Pillow of this machine cannot write it" for kind in kinds if kind not in present
    ]
    for pair in pictures:
        sound = isinstance(pair, tuple) and [*map(type, pair)] == [str, Picture]
        if not sound or pair[0] in seen:
            got = " ".join(repr(pair).split())
            raise BitdialError(
                f"pictures must be pairs of a name, each once, and a Picture, got {got:.60}; read_picture gives one"
            )
        title, picture = pair
        seen.add(title)
        points.append(own := _own(codec, title, picture, name, quality))
        for kind in kinds:
            if kind in present:
                try:
                    points += _others(kind, title, picture, own.size, qualities)
                except BitdialError as error:
                    notes.append(f"{kind} was left out for {title}, and has no means: {error}")
    if not points:
        raise BitdialError("pictures must hold at least one, got none; name a folder that has pictures in it")
    exact = sorted({point.picture for point in points if point.psnr is None})
    if exact:
        notes.append(f"In no mean, because it came back without any error and has no PSNR: {', '.join(exact)}")
    return CodecComparison(tuple(points), tuple(notes))


def _check(codec: object, name: object, quality: object, kinds: object, qualities: object) -> None:
    if not isinstance(codec, Codec):
        raise BitdialError(f"codec must be a bitdial.compression.codec.Codec, got {type(codec).__name__}")
    if not isinstance(name, str) or name in KINDS:
        raise BitdialError(f"name must be a text other than {', '.join(KINDS)}, got {name!r}")
    if quality is not None and not (isinstance(quality, int | float) and math.isfinite(quality)):
        raise BitdialError(f"quality must be a finite number or None, got {quality!r}")
    for option, values in (("kinds", kinds), ("qualities", qualities)):
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise BitdialError(f"{option} must be a list, got {values!r}")
        for value in values:
            check_kind(value) if option == "kinds" else check_whole(option, value, 0, BEST)
        if len({*values}) < len(values):
            raise BitdialError(f"{option} must be different ones, got {values!r}")


def _own(codec: Codec, title: str, picture: Picture, name: str, quality: float | None) -> Point:
    start = time.perf_counter()
    coded = codec.code(picture.pixels)
    data = coded.data(picture.mode)
    written = time.perf_counter()
    back = codec.decompress(data, max_pixels=picture.pixels[0].numel(), path=title).pixels
    seconds = written - start, time.perf_counter() - written
    if not torch.equal(back, coded.pixels()):
        raise BitdialError(
            f"{title} must come back from its file as the network reconstructs it, got other pixels; "
            "use the same torch and number of threads throughout"
        )
    return _point(title, picture, back, name, "own", quality, None, len(data), seconds)


def _others(kind: str, title: str, picture: Picture, size: int, qualities: Sequence[int]) -> list[Point]:
    @cache
    def write(quality: int) -> OtherFile:
        return encode_other(picture.pixels, kind, quality, picture.mode)

    def point(part: Part, limit: Limit, file: OtherFile) -> Point:
        start = time.perf_counter()
        back = decode_other(file.data, picture.mode)
        seconds = file.seconds, time.perf_counter() - start
        return _point(title, picture, back, kind, part, file.quality, limit, len(file.data), seconds)

    nearest = nearest_in_size(write, size)
    return [point("size", nearest.limit, nearest.file), *(point("curve", None, write(each)) for each in qualities)]


def _point(
    title: str,
    picture: Picture,
    back: Tensor,
    codec: str,
    part: Part,
    quality: float | None,
    limit: Limit,
    size: int,
    seconds: tuple[float, float],
) -> Point:
    x, y = (shown(pixels, picture.mode)[None].double() / 255 for pixels in (picture.pixels, back))
    height, width = x.shape[-2:]
    similarity = ms_ssim(x, y).item() if most_scales(height, width) == 5 else None
    found = None if torch.equal(x, y) else psnr(x, y).item()
    rate = bpp(size, height, width)
    return Point(title, codec, part, quality, limit, size, height * width, rate, found, similarity, *seconds)
