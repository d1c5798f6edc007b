"""Pictures side by side: that pixels are drawn as they are, what is said below them, what is refused."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from bitdial.errors import BitdialError
from bitdial.evaluation.plot_style import as_png
from bitdial.evaluation.side_by_side import MOST_ROWS, Coded, Row, side_by_side

CHINA: NDArray[np.uint8] = load_sample_images().images[0].transpose(2, 0, 1)


def row(height: int, width: int, *, name: str = "china", other: bool = True, shift: int = 3) -> Row:
    pixels = CHINA[:, 60 : 60 + height, 200 : 200 + width]
    changed = (pixels // 16 * 16 + shift).astype(np.uint8)
    return Row(name, pixels, Coded("mine", changed, 0.21, 23.456), Coded("AVIF", pixels, 24, None) if other else None)


def image_of(figure: Figure) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(as_png(figure))).convert("RGB"))


def places(image: NDArray[np.uint8], part: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Where a part ``[H, W, 3]`` stands in an image."""
    height, width, _ = part.shape
    fits = image.shape[0] - height + 1, image.shape[1] - width + 1
    corner = (image[: fits[0], : fits[1]] == part[0, 0]).all(2) & (
        image[height - 1 :, width - 1 :] == part[-1, -1]
    ).all(2)
    return [
        (y, x) for y, x in np.argwhere(corner).tolist() if np.array_equal(image[y : y + height, x : x + width], part)
    ]


def test_every_pixel_is_drawn_as_it_is() -> None:
    given = row(360, 440)
    image = image_of(side_by_side([given]))
    middle = np.s_[:, 41 : 41 + 277, 81 : 81 + 277]  # of 360 and 440
    original, own = (pixels[middle].transpose(1, 2, 0) for pixels in (given.original, given.own.pixels))
    (first, third), (second,) = places(image, original), places(image, own)  # the other codec has lost nothing
    assert first[0] == second[0] == third[0]
    assert first[1] < second[1] < third[1]
    error = np.abs(own.astype(int) - original)
    factor = int(factor_of(side_by_side([given])))
    assert len(places(image, np.minimum(factor * error, 255).astype(np.uint8))) == 1


def factor_of(figure: Figure) -> str:
    (said,) = {text.get_text() for text in figure.axes[0].texts if text.get_text().startswith("error")}
    return said.removeprefix("error \u00d7 ")


def test_small_pictures_are_enlarged_by_whole_numbers() -> None:
    image = image_of(side_by_side([row(40, 60, other=False)]))
    original = CHINA[:, 60:100, 200:260].transpose(1, 2, 0)
    assert len(places(image, original.repeat(6, 0).repeat(6, 1))) == 1  # 373 pixels for each of three


@pytest.mark.parametrize(
    ("error", "factor"), [(0, 32), (1, 32), (7, 32), (8, 16), (31, 8), (60, 4), (127, 2), (128, 1), (255, 1)]
)
def test_the_error_is_amplified_as_far_as_it_fits(error: int, factor: int) -> None:
    black, grey = np.zeros((3, 50, 50), np.uint8), np.full((3, 50, 50), error, np.uint8)
    figure = side_by_side([Row("a", black, Coded("mine", grey, 1.0, 20.0))])
    assert factor_of(figure) == str(factor)
    assert (image_of(figure) == factor * error).all(2).sum() >= 350 * 350


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def test_what_is_said() -> None:
    said = words(side_by_side([row(200, 640), row(30, 400, name="b", other=False)]))
    factor = said[6].removeprefix("error ")
    assert said == [
        "china: 277 \u00d7 200 in the middle of 440 \u00d7 200 pixels", "original",
        "mine", "0.21 bpp, 23.46 dB", "AVIF", "24 bpp, no loss", f"error {factor}", "of mine",
        "b: 138 \u00d7 30 in the middle of 400 \u00d7 30 pixels, 2 times enlarged", "original",
        "mine", "0.21 bpp, 23.46 dB", f"error {factor}", "of mine",
    ]  # fmt: skip
    single = np.zeros((3, 1, 1), np.uint8)
    assert "2280 bpp, 31.00 dB" in words(side_by_side([Row("a", single, Coded("mine", single, 2280, 31))]))


ODD = {
    "long": [row(20, 440)],
    "tall": [row(360, 8, other=False)],
    "one pixel": [row(1, 1)],
    "long names": [
        Row("W" * 200, CHINA, Coded("W" * 99, CHINA, 0.000123, 123.456), Coded("$x_{$", CHINA, 123456, 1.0))
    ],
    "some": [row(64, 64), row(300, 300, other=False), row(1, 200)],
}


@pytest.mark.parametrize("case", ODD)
def test_no_words_cover_others_or_leave_the_figure(case: str) -> None:
    figure = side_by_side(ODD[case])
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts if text.get_text()]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1


def test_tensors_and_more_rows_than_are_drawn() -> None:
    pixels = torch.from_numpy(CHINA[:, :50, :50].copy())
    rows = [Row(f"{index}", pixels, Coded("mine", pixels, 1.0, None)) for index in range(MOST_ROWS + 3)]
    said = words(side_by_side(rows))
    assert sum(each.startswith(f"{MOST_ROWS - 1}:") for each in said) == 1
    assert not any(each.startswith(f"{MOST_ROWS}:") for each in said)


PIXELS = CHINA[:, :9, :9]
GOOD = Coded("mine", PIXELS, 1.0, 20.0)
BAD: dict[str, tuple[Any, str]] = {
    # A tired user.
    "none": ([], "rows must be a list of one Row or more, got \\[\\]"),
    "one row": (row(9, 9), "rows must be a list of one Row or more"),
    "pixels": ([PIXELS], "rows must be a list of one Row"),
    "a tuple": ([("a", PIXELS, GOOD)], "rows must be a list of one Row"),
    "channels last": ([Row("a", PIXELS.transpose(1, 2, 0), GOOD)], r"original of a must be .* got uint8 \[9, 9, 3"),
    "grey": ([Row("a", PIXELS[:1], GOOD)], r"got uint8 \[1, 9, 9\]"),
    "floats": ([Row("a", PIXELS / 255, GOOD)], "got float64"),
    "a batch": ([Row("a", PIXELS[None], GOOD)], r"got uint8 \[1, 3, 9, 9\]"),
    "other sizes": ([Row("a", CHINA[:, :9, :8], GOOD)], "of a must be of one size, got original 8 x 9, own 9 x 9"),
    "pixels for a file": ([Row("a", PIXELS, PIXELS)], "rows must be a list of one Row"),
    "a path": ([Row("a", "a.png", GOOD)], "original of a must be an array of pixels, .* got str"),
    # A hostile one.
    "nothing": (None, "got None"),
    "text": ("rows", "got 'rows'"),
    "no pixels": ([Row("a", PIXELS[:, :0], GOOD)], r"\[3, 0, 9\]"),
    "NaN dB": ([Row("a", PIXELS, Coded("mine", PIXELS, 1.0, math.nan))], "psnr of mine must be a finite number"),
    "infinite dB": ([Row("a", PIXELS, Coded("mine", PIXELS, 1.0, math.inf))], "psnr of mine must be"),
    "no rate": ([Row("a", PIXELS, Coded("mine", PIXELS, None, 1.0))], "bpp of mine must be a finite number, got None"),  # type: ignore[arg-type]
    "signed": ([Row("a", PIXELS.astype(np.int8), GOOD)], "got int8"),
    "no names": ([Row(None, PIXELS, GOOD)], "rows must be a list of one Row"),  # type: ignore[arg-type]
    "lists": ([Row("a", PIXELS.tolist(), GOOD)], "got list"),
    "another wrong": ([Row("a", PIXELS, GOOD, Coded("AVIF", PIXELS[:, :5], 1.0, 1.0))], "other 9 x 5"),
    "other is a text": ([Row("a", PIXELS, GOOD, "AVIF")], "rows must be a list of one Row"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case: str) -> None:
    rows, says = BAD[case]
    with pytest.raises(BitdialError, match=says) as caught:
        side_by_side(rows)
    assert "\n" not in str(caught.value)
