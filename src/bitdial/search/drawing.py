"""What the figures of runs share: names that can be drawn, places on an axis, and their files."""

from __future__ import annotations

import io
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from bitdial.errors import BitdialError
from bitdial.evaluation.width_plots import shortened
from bitdial.files import write_atomically
from bitdial.search.columns import Column, is_log, shown

MOST_PLACES = 30
"""How many values an axis of a heat map has at most."""
_BINS = 12
KINDS = (".png", ".pdf", ".svg")


@dataclass(frozen=True, eq=False)
class Places:
    """The rows or columns of a heat map.

    Attributes:
        labels: what stands at each.
        of: the place of a run; runs without one are not among them.
        note: what was done to have so few of them, in words.
    """

    labels: Sequence[str]
    of: dict[int, int]
    note: str = ""


def places(column: Column, runs: Sequence[int]) -> Places:
    """Give each value of a parameter a place; of more than 30, numbers in bins and choices that are most frequent."""
    values = {run: value for run in runs if (value := column.at(run)) is not None}
    if column.numeric:
        there = sorted({*values.values()})
        if len(there) <= MOST_PLACES:
            return Places([shown(value) for value in there], {run: there.index(value) for run, value in values.items()})
        numbers = {run: float(value) for run, value in values.items()}
        log = is_log(there)  # type: ignore[arg-type]
        scaled = {run: math.log(value) if log else value for run, value in numbers.items()}
        low, width = min(scaled.values()), (max(scaled.values()) - min(scaled.values())) / _BINS
        middles = [low + (number + 0.5) * width for number in range(_BINS)]
        labels = [f"{math.exp(middle) if log else middle:.2g}" for middle in middles]
        of = {run: min(int((value - low) / width), _BINS - 1) for run, value in scaled.items()}
        return Places(labels, of, f"{column.name} in {_BINS} bins")
    count = Counter(values.values())
    kept = [name for name, _ in count.most_common(MOST_PLACES)]
    order = [name for name in column.distinct if name in kept]
    note = f"the {len(order)} most frequent of {len(count)} {column.name}" if len(count) > len(order) else ""
    return Places(
        [drawable(name, 24) for name in order],
        {run: order.index(value) for run, value in values.items() if value in kept},
        note,
    )


def drawable(name: object, most: int = 40) -> str:
    """Return a name in one line, shortened, with a box for each character that the font does not have."""
    line = shortened(" ".join(str(name).split()), most)
    return "".join(each if each.isprintable() and _in_font(ord(each)) else "\u25a1" for each in line)


def digits(values: Sequence[float]) -> str:
    """Return the format that tells values apart and is not longer than needed."""
    span = max(values) - min(values)
    most = max(map(abs, values))
    if not span or most >= 1e5 or most < 1e-3:
        return ".3g"
    return f".{min(6, max(0, 2 - math.floor(math.log10(span))))}f" if span / most > 1e-5 else ".6g"


def thin(axis: Axis, labels: Sequence[str], room: float, *, start: float = 0, **look: Any) -> None:
    """Write labels one apart along an axis, every second or third where each has less than 0.17 inches."""
    stride = max(1, math.ceil(0.17 * len(labels) / room))
    ticks = [start + place for place in range(0, len(labels), stride)]
    axis.set_ticks(ticks, list(labels)[::stride], fontsize=8, parse_math=False, **look)


def save(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Write a figure where it was asked for, and give it back.

    Raises:
        BitdialError: the path is a folder, or has an ending of no picture.
    """
    if path is None:
        return figure
    if not isinstance(path, str | os.PathLike):
        raise BitdialError(f"save_path must be the path of a file or None, got {path!r:.60}")
    path = Path(path)
    if path.suffix.lower() not in KINDS or path.is_dir():
        raise BitdialError(f"save_path must name a file that ends in {', '.join(KINDS)}, got '{path}'")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower()[1:])
    write_atomically(path, buffer.getvalue())
    return figure


@cache
def _in_font(code: int) -> bool:
    return bool(get_font(findfont(FontProperties())).get_char_index(code))
