"""A codec beside JPEG, WebP and AVIF: that numbers are those of real files, their means, what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import BaseModel

from bitdial.compression.codec import Codec, Coded
from bitdial.compression.codec_points import MeanPoint, Point, bd_rates, mean_points
from bitdial.compression.comparison import QUALITIES, CodecComparison, compare
from bitdial.compression.metrics import bd_rate, ms_ssim, psnr
from bitdial.compression.models import FactorizedPrior
from bitdial.compression.other_codecs import KINDS, available_kinds, decode_other, encode_other, nearest_in_size
from bitdial.compression.pictures import Picture
from bitdial.errors import BitdialError
from tests.compression.photographs import grey_photograph, photograph

pytest.importorskip("constriction")
PICTURES = [
    ("large", Picture(photograph("china", 170, 180), "RGB")),
    ("small", Picture(photograph("flower", 48, 30), "RGB")),
    ("grey", grey_photograph(40, 50)),
]
PRESENT = available_kinds()


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.manual_seed(0)
    model = FactorizedPrior(8, 16)
    with torch.no_grad():
        model.g_a.branch[-1].weight.mul_(200)  # type: ignore[union-attr, operator]
    return Codec(model)


@pytest.fixture(scope="module")
def found(codec: Codec) -> CodecComparison:
    return compare(codec, PICTURES, quality=0.013, qualities=(5, 50, 90))


def test_every_picture_has_every_point(found: CodecComparison) -> None:
    expected = [("bitdial", "own", 0.013)]
    for kind in PRESENT:
        expected += [(kind, "size", None), (kind, "curve", 5), (kind, "curve", 50), (kind, "curve", 90)]
    for name, picture in PICTURES:
        points = [point for point in found.points if point.picture == name]
        assert [(p.codec, p.part, p.quality if p.part != "size" else None) for p in points] == expected
        assert {p.pixels for p in points} == {picture.pixels[0].numel()}
    assert found.notes == tuple(
        f"{k} was left out: the Pillow of this machine cannot write it" for k in KINDS if k not in PRESENT
    )


def test_own_numbers_are_those_of_the_file(codec: Codec, found: CodecComparison) -> None:
    own = next(point for point in found.points if point.part == "own")
    pixels = PICTURES[0][1].pixels
    data = codec.compress(pixels)
    x, y = (each[None].double() / 255 for each in (pixels, codec.decompress(data).pixels))
    assert (own.picture, own.size, own.bpp) == ("large", len(data), 8 * len(data) / (170 * 180))
    assert (own.psnr, own.ms_ssim) == (psnr(x, y).item(), ms_ssim(x, y).item())
    assert min(own.encode_seconds, own.decode_seconds) > 0


def test_the_others_are_those_of_their_files(found: CodecComparison) -> None:
    own = next(point for point in found.points if point.part == "own")
    pixels = PICTURES[0][1].pixels
    for kind in PRESENT:
        nearest = nearest_in_size(lambda quality, kind=kind: encode_other(pixels, kind, quality), own.size)  # type: ignore[misc]
        curve, same = (
            next(
                p for p in found.points if (p.codec, p.part) == (kind, part) and p.quality in (50, nearest.file.quality)
            )
            for part in ("curve", "size")
        )
        assert (same.size, same.limit, same.quality) == (len(nearest.file.data), nearest.limit, nearest.file.quality)
        data = encode_other(pixels, kind, 50).data
        error = (decode_other(data).double() - pixels.double()).square().mean()
        assert curve.size == len(data)
        assert curve.psnr == pytest.approx(10 * torch.log10(255**2 / error).item())
        assert curve.ms_ssim is not None
        assert 0.5 < curve.ms_ssim < 1


def test_a_grey_picture_is_measured_by_its_luma(codec: Codec, found: CodecComparison) -> None:
    own = next(point for point in found.points if (point.picture, point.part) == ("grey", "own"))
    picture = PICTURES[2][1]
    back = codec.reconstruct(picture.pixels).permute(1, 2, 0).contiguous().numpy()
    luma = torch.tensor(list(Image.fromarray(back).convert("L").tobytes()), dtype=torch.float64).view(40, 50)
    error = (luma - picture.pixels[0].double()).square().mean()
    assert own.psnr == pytest.approx(10 * torch.log10(255**2 / error).item())
    assert {p.ms_ssim for p in found.points if p.picture == "grey"} == {None}  # too small for it


def test_numbers_survive_json(found: CodecComparison) -> None:
    class Record(BaseModel):
        found: CodecComparison
        means: tuple[MeanPoint, ...]

    record = Record(found=found, means=mean_points(found.points))
    text = record.model_dump_json()
    assert "NaN" not in text
    assert Record.model_validate_json(text) == record
    assert json.loads(text)["found"]["points"][0] == asdict(found.points[0])


def test_means_weigh_rates_by_pixels_and_psnr_by_pictures(found: CodecComparison) -> None:
    own = [point for point in found.points if point.part == "own"]
    mean = mean_points(found.points)[0]
    pixels = 170 * 180 + 48 * 30 + 40 * 50
    assert mean.bpp == pytest.approx(8 * sum(point.size for point in own) / pixels)
    assert mean.psnr == pytest.approx(sum(point.psnr or 0 for point in own) / 3)
    assert (mean.codec, mean.part, mean.quality, mean.pictures, mean.limited) == ("bitdial", "own", 0.013, 3, 0)
    assert mean.ms_ssim is None  # of two pictures there is none
    assert len(mean_points(found.points)) == 1 + 4 * len(PRESENT)


def point(picture: str = "a", codec: str = "bitdial", part: Any = "own", **other: Any) -> Point:
    values = {"quality": None, "limit": None, "size": 100, "pixels": 800, "bpp": 1.0, "psnr": 30.0, "ms_ssim": 0.9}
    return Point(picture, codec, part, **{**values, "encode_seconds": 1.0, "decode_seconds": 2.0, **other})


def test_means_are_over_the_same_pictures() -> None:
    points = [
        point(), point("b", psnr=20.0), point("exact"),
        point(codec="JPEG", part="size", quality=3, limit="smallest"), point("b", "JPEG", "size", quality=9),
        point("exact", "JPEG", "size", quality=50, psnr=None),
        point(codec="WebP", part="size", quality=3), point("exact", "WebP", "size", quality=3),
    ]  # fmt: skip
    own, jpeg = mean_points(points)
    assert (own.pictures, own.psnr, own.bpp, own.ms_ssim) == (2, 25.0, 1.0, 0.9)
    assert (jpeg.codec, jpeg.pictures, jpeg.limited, jpeg.quality) == ("JPEG", 2, 1, None)
    assert mean_points([]) == mean_points([point(psnr=None)]) == ()


def test_a_picture_that_comes_back_exactly_is_noted(codec: Codec) -> None:
    white = Picture(torch.full((3, 16, 16), 255, dtype=torch.uint8), "RGB")
    found = compare(codec, [*PICTURES[1:2], ("white", white)], qualities=(90,), kinds=["JPEG"])
    assert [p.psnr is None for p in found.points if p.picture == "white"] == [False, False, True]
    assert found.notes == ("In no mean, because it came back without any error and has no PSNR: white",)
    assert {mean.pictures for mean in mean_points(found.points)} == {1}


def test_bd_rate_where_curves_overlap() -> None:
    values = ((5, 50, 25.0), (50, 100, 30.0), (90, 200, 35.0))
    curve = [point(codec="JPEG", part="curve", quality=q, size=size, psnr=decibels) for q, size, decibels in values]
    far = [replace(each, codec="WebP", psnr=(each.psnr or 0) + 40) for each in curve]
    own = [point(quality=0.01, size=50, psnr=28.0), point(quality=0.05, size=100, psnr=33.0)]
    found, notes = bd_rates(mean_points([*own, *curve, *far]))
    assert found == {"JPEG": pytest.approx(bd_rate([0.5, 1, 2], [25, 30, 35], [0.5, 1], [28, 33]))}
    assert found["JPEG"] < -20
    (note,) = notes
    assert (
        "no BD-rate of bitdial (b) against WebP (a): curves must overlap in quality, got 65 dB to 75 dB and 28 dB"
        in note
    )
    single = bd_rates(mean_points([*own[:1], *curve]))
    assert single[0] == {}
    assert "curve b needs 2 points or more" in single[1][0]


def test_a_kind_that_is_missing_or_has_no_room_is_left_out(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Picture(torch.zeros(3, 1, 16384, dtype=torch.uint8), "RGB")
    Image.init()
    monkeypatch.delitem(Image.SAVE, "AVIF", raising=False)
    found = compare(codec, [*PICTURES[1:2], ("wide", wide)], kinds=("WebP", "AVIF"), qualities=())
    assert [(p.picture, p.codec) for p in found.points] == [
        ("small", "bitdial"),
        ("small", "WebP"),
        ("wide", "bitdial"),
    ]
    assert [mean.codec for mean in mean_points(found.points)] == ["bitdial"]
    assert found.notes[0] == "AVIF was left out: the Pillow of this machine cannot write it"
    assert found.notes[1].startswith(
        "WebP was left out for wide, and has no means: WebP cannot hold a picture of 16384 x"
    )


def test_the_bisection_and_the_curve_write_every_file_once(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(pixels: Any, kind: str, quality: int, mode: str) -> Any:
        asked.append(quality)
        return encode_other(pixels, kind, quality, mode)

    monkeypatch.setattr("bitdial.compression.comparison.encode_other", counted)
    compare(codec, PICTURES[1:2], kinds=("JPEG",))
    assert len(asked) == len({*asked}) <= len(QUALITIES) + 4
    assert {*QUALITIES} <= {*asked}


def test_what_is_decoded_must_be_what_the_network_gives(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Coded, "pixels", lambda self: self._y)
    with pytest.raises(BitdialError, match="small must come back from its file as the network reconstructs it"):
        compare(codec, PICTURES[1:2])


ONE = PICTURES[1:2]
BAD: dict[str, tuple[Any, str]] = {
    # A tired user.
    "nothing": (lambda codec: compare(codec, []), "pictures must hold at least one, got none"),
    "a dict": (lambda codec: compare(codec, dict(ONE)), "pairs of a name, each once, and a Picture, got 'small'"),  # type: ignore[arg-type]
    "no names": (lambda codec: compare(codec, [ONE[0][1]]), "pairs of a name"),  # type: ignore[list-item]
    "pixels": (lambda codec: compare(codec, [("a", ONE[0][1].pixels)]), "read_picture gives one"),  # type: ignore[list-item]
    "paths": (lambda codec: compare(codec, ["a.png"]), "got 'a.png'"),  # type: ignore[list-item]
    "the same name": (lambda codec: compare(codec, ONE * 2, kinds=()), "each once"),
    "a network": (lambda codec: compare(codec.model, ONE), "must be a bitdial.compression.codec.Codec, got Factor"),
    "one kind": (lambda codec: compare(codec, ONE, kinds="JPEG"), "kinds must be a list, got 'JPEG'"),
    "another case": (lambda codec: compare(codec, ONE, kinds=["webp"]), "got 'webp'; did you mean 'WebP'"),
    "one quality": (lambda codec: compare(codec, ONE, qualities=50), "qualities must be a list, got 50"),  # type: ignore[arg-type]
    "too good": (lambda codec: compare(codec, ONE, qualities=[101]), "from 0 to 100, got 101"),
    "its name": (lambda codec: compare(codec, ONE, name="JPEG"), "a text other than JPEG, WebP, AVIF"),
    # A hostile one.
    "floats": (lambda codec: compare(codec, [("a", Picture(torch.rand(3, 4, 4), "RGB"))]), "must be a uint8 tensor"),
    "one channel": (lambda codec: compare(codec, [("a", Picture(ONE[0][1].pixels[:1], "L"))]), r"\[1, 48, 30\]"),
    "no pixels": (lambda codec: compare(codec, [("a", Picture(ONE[0][1].pixels[:, :0], "L"))]), r"\[3, 0, 30\]"),
    "another mode": (lambda codec: compare(codec, [("a", Picture(ONE[0][1].pixels, "P"))]), "mode must be"),
    "NaN": (lambda codec: compare(codec, ONE, quality=float("nan")), "quality must be a finite number or None"),
    "a text": (lambda codec: compare(codec, ONE, quality="high"), "got 'high'"),  # type: ignore[arg-type]
    "twice": (lambda codec: compare(codec, ONE, qualities=[5, 5]), "qualities must be different ones"),
    "NaN among them": (lambda codec: compare(codec, ONE, qualities=[float("nan")]), "qualities must be a whole number"),  # type: ignore[list-item]
    "lists": (lambda codec: compare(codec, ONE, kinds=[["JPEG"]]), r"kind must be one of .* got \['JPEG'\]"),  # type: ignore[list-item]
    "no name": (lambda codec: compare(codec, ONE, name=None), "got None"),  # type: ignore[arg-type]
    "a name of numbers": (lambda codec: compare(codec, [(1, ONE[0][1])]), "pairs of a name"),  # type: ignore[list-item]
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case: str, codec: Codec) -> None:
    call, says = BAD[case]
    with pytest.raises(BitdialError, match=says) as caught:
        call(codec)
    assert "\n" not in str(caught.value)


def test_one_pixel(codec: Codec) -> None:
    pixel = Picture(torch.tensor([10, 200, 30], dtype=torch.uint8).view(3, 1, 1), "RGB")
    found = compare(codec, [("pixel", pixel)], qualities=(0, 100))
    assert len(found.points) == 1 + 3 * len(PRESENT)
    assert all(p.bpp == 8 * p.size for p in found.points)
