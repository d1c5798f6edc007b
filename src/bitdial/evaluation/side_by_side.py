"""Pictures side by side: the original, what two codecs make of it, and the error, pixel for pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from bitdial.errors import BitdialError
from bitdial.evaluation.drawing import INK
from bitdial.evaluation.plot_style import new_figure
from bitdial.evaluation.width_plots import fit_text

SIDE_BY_SIDE_CAPTION = (
    "The same part of each picture, pixel for pixel: the original, one's own codec, another kind of file of the same "
    "size, and the absolute error of one's own, amplified by the same factor everywhere (black: none). Bits per pixel "
    "and PSNR are those of the whole picture."
)
MOST_ROWS = 4
"""How many pictures are drawn: of more, the first ones."""

_WIDTH, _DPI, _EDGE, _GAP, _LINE = 1160, 130, 8, 12, 26  # pixels; a line is one of text
_LEAST = 40  # a side below is drawn larger


@dataclass(frozen=True, eq=False)
class Coded:
    """A picture as it comes out of a file.

    Attributes:
        name: of what wrote the file, such as "AVIF".
        pixels: uint8 ``[3, H, W]``.
        bpp: bits per pixel of the file.
        psnr: in dB; None where nothing was lost.
    """

    name: str
    pixels: Any
    bpp: float
    psnr: float | None


@dataclass(frozen=True, eq=False)
class Row:
    """A picture and what codecs make of it.

    Attributes:
        name: of the picture.
        original: uint8 ``[3, H, W]``.
        own: what one's own codec makes of it.
        other: what another makes of it at the same size, None where there is none.
    """

    name: str
    original: Any
    own: Coded
    other: Coded | None = None


def side_by_side(rows: Sequence[Row]) -> Figure:
    """Draw of each picture the original, one's own codec, another, and the error of one's own, each from its middle.

    Every pixel is drawn as one, or as a square of several where a picture is small.

    Raises:
        BitdialError: no rows, or pixels that are not uint8 ``[3, H, W]`` of one size in a row.
    """
    if not isinstance(rows, Sequence) or not rows or not all(map(_is_row, rows)):
        raise BitdialError(f"rows must be a list of one Row or more, got {' '.join(repr(rows).split()):.60}")
    rows = rows[:MOST_ROWS]
    columns = 4 if any(row.other for row in rows) else 3
    cell = (_WIDTH - 2 * _EDGE - (columns - 1) * _GAP) // columns
    cuts = [_cut(row, cell) for row in rows]
    factor = _factor(np.concatenate([_error(cut).ravel() for cut in cuts]))
    heights = [len(cut.original) * cut.zoom + 3 * _LINE + _GAP for cut in cuts]
    canvas = np.full((sum(heights), _WIDTH, 3), 255, np.uint8)
    figure = new_figure(_WIDTH / _DPI, len(canvas) / _DPI, dpi=_DPI)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(len(canvas), 0))
    axes.axis("off")
    text: dict[str, Any] = {"color": INK, "fontsize": 9, "va": "center", "parse_math": False}
    for row, cut, top in zip(rows, cuts, np.cumsum([0, *heights[:-1]]).tolist(), strict=True):
        heading = axes.text(_EDGE, top + _LINE / 2, "", **text)
        fit_text(heading, row.name, f": {cut.part}", _WIDTH - _EDGE)
        error = np.minimum(factor * _error(cut), 255).astype(np.uint8)
        cells: list[tuple[str, str, NDArray[np.uint8] | None]] = [("original", "", cut.original)]
        cells.append((*_said(row.own), cut.own))
        if columns == 4:
            cells.append((*_said(row.other), cut.other) if row.other else ("", "", None))
        cells.append((f"error \u00d7 {factor}", f"of {row.own.name}", error))
        for column, (name, numbers, pixels) in enumerate(cells):
            if pixels is None:
                continue
            large = np.kron(pixels, np.ones((cut.zoom, cut.zoom, 1), np.uint8))
            left = _EDGE + column * (cell + _GAP) + (cell - large.shape[1]) // 2
            canvas[top + _LINE : top + _LINE + len(large), left : left + large.shape[1]] = large
            middle = _EDGE + column * (cell + _GAP) + cell / 2
            for line, words in enumerate((name, numbers)):
                label = axes.text(middle, top + len(large) + (1.5 + line) * _LINE, "", ha="center", **text)
                fit_text(label, words, "", middle + (cell + _GAP) / 2)
    axes.imshow(canvas, interpolation="nearest", aspect="auto", extent=(0, _WIDTH, len(canvas), 0))
    return figure


@dataclass(frozen=True, eq=False)
class _Cut:
    """The part of a row's pictures that is drawn, ``[H, W, 3]``, how much larger, and what part it is, in words."""

    original: NDArray[np.uint8]
    own: NDArray[np.uint8]
    other: NDArray[np.uint8] | None
    zoom: int
    part: str


def _is_row(row: object) -> bool:
    if not isinstance(row, Row) or not isinstance(row.name, str):
        return False
    return all(isinstance(each, Coded) and isinstance(each.name, str) for each in (row.own, row.other or row.own))


def _cut(row: Row, cell: int) -> _Cut:
    given = {"original": row.original, "own": row.own.pixels}
    if row.other:
        given["other"] = row.other.pixels
    images = {kind: _pixels(f"{kind} of {row.name}", values) for kind, values in given.items()}
    if len({image.shape for image in images.values()}) > 1:
        sizes = ", ".join(f"{kind} {image.shape[1]} x {image.shape[0]}" for kind, image in images.items())
        raise BitdialError(f"pictures of {row.name} must be of one size, got {sizes}")
    height, width, _ = images["own"].shape
    zoom = max(1, cell // max(height, width), -(-_LEAST // min(height, width)))
    high, wide = min(height, cell // zoom), min(width, cell // zoom)
    top, left = (height - high) // 2, (width - wide) // 2
    part = (
        f"{width} \u00d7 {height} pixels"
        if (high, wide) == (height, width)
        else (f"{wide} \u00d7 {high} in the middle of {width} \u00d7 {height} pixels")
    )
    enlarged = f", {zoom} times enlarged" if zoom > 1 else ""
    cuts = {kind: image[top : top + high, left : left + wide] for kind, image in images.items()}
    return _Cut(cuts["original"], cuts["own"], cuts.get("other"), zoom, part + enlarged)


def _error(cut: _Cut) -> NDArray[np.int16]:
    return np.abs(np.subtract(cut.own, cut.original, dtype=np.int16))


def _factor(errors: NDArray[np.int16]) -> int:
    """The largest power of 2, up to 32, that leaves 98% of the errors below white."""
    largest = max(float(np.quantile(errors, 0.98)), 1.0)
    return int(2 ** min(5, max(0, math.floor(math.log2(255 / largest)))))


def _said(coded: Coded) -> tuple[str, str]:
    for name, value in (("bpp", coded.bpp), ("psnr", 0.0 if coded.psnr is None else coded.psnr)):
        if not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise BitdialError(f"{name} of {coded.name} must be a finite number, got {value!r}")
    rate = f"{coded.bpp:.3g}" if coded.bpp < 1000 else f"{coded.bpp:.0f}"
    return coded.name, f"{rate} bpp, " + ("no loss" if coded.psnr is None else f"{coded.psnr:.2f} dB")


def _pixels(name: str, values: Any) -> NDArray[np.uint8]:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    if not isinstance(array, np.ndarray):
        raise BitdialError(f"{name} must be an array of pixels, uint8 [3, H, W], got {type(values).__name__}")
    if array.dtype != np.uint8 or array.ndim != 3 or len(array) != 3 or not array.size:
        raise BitdialError(f"{name} must be uint8 [3, H, W], got {array.dtype} {[*array.shape]}")
    return array.transpose(1, 2, 0)
