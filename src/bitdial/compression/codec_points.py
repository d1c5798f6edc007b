"""What was measured of pictures in files of a codec, and the means over pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from bitdial.compression.metrics import bd_rate
from bitdial.compression.other_codecs import Limit
from bitdial.errors import BitdialError

Part = Literal["own", "size", "curve"]


@dataclass(frozen=True)
class Point:
    """One picture in one file.

    Attributes:
        picture: its name.
        codec: what wrote the file.
        part: "own" for the codec that is compared, "size" for a file of another kind of that size, "curve" for one at a
            quality that was asked for.
        quality: what the file was written at; of one's own codec what it was trained for (lambda), None where unknown.
        limit: "smallest" or "largest" where a kind has no file that small or large: then it has not the same size.
        size: bytes of the file.
        pixels: width times height.
        bpp: bits per pixel.
        psnr: in dB, over all channels (a grey picture: its one); None where the picture came back without any error.
        ms_ssim: of five scales; None for a picture that is too small for it.
        encode_seconds: from pixels to bytes.
        decode_seconds: from bytes to pixels.
    """

    picture: str
    codec: str
    part: Part
    quality: float | None
    limit: Limit
    size: int
    pixels: int
    bpp: float
    psnr: float | None
    ms_ssim: float | None
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class MeanPoint:
    """What one codec does with all pictures, at one quality or at the size of one's own files.

    Attributes:
        codec, part, quality: as of a `Point`; `quality` is None for "size", where it differs between pictures.
        pictures: how many there are.
        limited: for how many of them the kind has no file of the size.
        bpp: all bits over all pixels: large pictures count for more.
        psnr: the mean over pictures of each one's, in dB: every picture counts alike, as papers give it.
        ms_ssim: the mean over pictures; None where one is too small for it.
        encode_seconds, decode_seconds: the mean over pictures.
    """

    codec: str
    part: Part
    quality: float | None
    pictures: int
    limited: int
    bpp: float
    psnr: float
    ms_ssim: float | None
    encode_seconds: float
    decode_seconds: float


def mean_points(points: Iterable[Point]) -> tuple[MeanPoint, ...]:
    """Average the points of one comparison over pictures, in the order given.

    Every mean is over the same pictures: a codec that lacks one has none, and a picture that any codec gave back
    without an error, and so has no PSNR, is in no mean.
    """
    points = tuple(points)
    exact = {point.picture for point in points if point.psnr is None}
    pictures = {point.picture for point in points} - exact
    groups: dict[tuple[str, Part, float | None], list[Point]] = {}
    for point in points:
        if point.picture in pictures:
            quality = None if point.part == "size" else point.quality
            groups.setdefault((point.codec, point.part, quality), []).append(point)
    return tuple(_mean(*key, group) for key, group in groups.items() if len(group) == len(pictures))


def bd_rates(means: Iterable[MeanPoint], codec: str = "bitdial") -> tuple[dict[str, float], tuple[str, ...]]:
    """By how many percent a codec's rate is above each other kind's at equal PSNR, where their curves tell.

    Args:
        means: those of the other kinds' curves, and those of the codec at several lambdas.
        codec: its name.

    Returns:
        The figures by kind, and a sentence for each kind whose curve does not allow one.
    """
    means = tuple(means)
    own = [mean for mean in means if mean.codec == codec and mean.part == "own"]
    found, notes = dict[str, float](), list[str]()
    for kind in dict.fromkeys(mean.codec for mean in means if mean.part == "curve"):
        curve = [mean for mean in means if mean.codec == kind and mean.part == "curve"]
        (rate_a, psnr_a), (rate_b, psnr_b) = (([m.bpp for m in side], [m.psnr for m in side]) for side in (curve, own))
        try:
            found[kind] = bd_rate(rate_a, psnr_a, rate_b, psnr_b)
        except BitdialError as error:
            notes.append(f"no BD-rate of {codec} (b) against {kind} (a): {error}")
    return found, tuple(notes)


def _mean(codec: str, part: Part, quality: float | None, points: Sequence[Point]) -> MeanPoint:
    similar = [point.ms_ssim for point in points if point.ms_ssim is not None]
    return MeanPoint(
        codec,
        part,
        quality,
        pictures=len(points),
        limited=sum(point.limit is not None for point in points),
        bpp=8 * sum(point.size for point in points) / sum(point.pixels for point in points),
        psnr=fmean(point.psnr for point in points if point.psnr is not None),
        ms_ssim=fmean(similar) if len(similar) == len(points) else None,
        encode_seconds=fmean(point.encode_seconds for point in points),
        decode_seconds=fmean(point.decode_seconds for point in points),
    )
