"""Figures of one metric over parameters: the heat map of two, and the comparison of the values of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from bitdial.evaluation.drawing import COLOURS, INK, PAPER
from bitdial.evaluation.plot_style import draw_spread, legend_name, new_figure, quiet, shades
from bitdial.evaluation.statistics import interval
from bitdial.evaluation.svg import tell
from bitdial.evaluation.width_plots import write_title
from bitdial.search.columns import Column, shown
from bitdial.search.drawing import digits, drawable, places, thin
from bitdial.search.groups import written

_WRITTEN = 12
"""Up to so many rows and columns, each cell has its number written in."""
_JOINED = 20
"""Up to so many values of a parameter, their means are drawn; of more, the runs alone."""
_NAMED = 10
"""How many lambdas the key names; of more, some in between."""


def heat_map(
    down: Column, across: Column, metric: Column, runs: Sequence[int], *, maximize: bool, title: str
) -> Figure:
    """Draw the mean of a metric for each pair of values; a pair that no run has is empty, with a dash."""
    rows, columns = places(down, runs), places(across, runs)
    cells: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        value = metric.at(run)
        if isinstance(value, float) and run in rows.of and run in columns.of:
            cells.setdefault((rows.of[run], columns.of[run]), []).append(value)
    high, wide = max(len(rows.labels), 1), max(len(columns.labels), 1)
    means = np.full((high, wide), np.nan)
    for place, values in cells.items():
        means[place] = np.mean(values)
    written = high <= _WRITTEN and wide <= _WRITTEN
    inches = wide * max(0.2, min(0.85, 7.2 / wide)), high * max(0.2, min(0.5, 6 / high))
    flat = all(0.07 * len(label) < inches[0] / wide - 0.1 for label in columns.labels)
    figure = new_figure(max(6.4, inches[0] + 2.4), max(2.6, inches[1] + (1.4 if flat else 2.4)))
    axes = figure.subplots()
    palette = shades() if maximize else shades().reversed()
    picture = axes.pcolormesh(np.ma.masked_invalid(means), cmap=palette, edgecolors=PAPER, linewidth=0.5)
    tell(picture, "", _said(means, cells, rows.labels, columns.labels, (down.name, across.name, metric.name)))
    axes.set(xlim=(0, wide), ylim=(0, high))
    _cells(axes, means, picture, maximize=maximize, written=written)
    quiet(axes, title="", x="", y="")
    axes.grid(visible=False)
    for axis, found, room, column in ((axes.xaxis, columns, inches[0], across), (axes.yaxis, rows, inches[1], down)):
        turned = {"rotation": 90} if axis is axes.xaxis and not flat else {}
        thin(axis, found.labels, room, start=0.5, **turned)
        axis.set_label_text(drawable(column.name, 48), parse_math=False, fontsize=9)
    axes.tick_params(length=0)
    if cells:
        bar = figure.colorbar(picture, ax=axes, fraction=0.05, pad=0.02)
        bar.ax.tick_params(labelsize=8)
        bar.ax.yaxis.set_major_locator(MaxNLocator(5))
        bar.set_label(f"{drawable(metric.name, 30)}, {'higher' if maximize else 'lower'} is better", parse_math=False)
    notes = [note for note in (rows.note, columns.note) if note]
    write_title(figure, drawable(f"{title}{''.join(f'; {note}' for note in notes)}", 160))
    return figure


def _said(means: NDArray[Any], cells: Any, down: Sequence[str], across: Sequence[str], names: Any) -> list[str]:
    """What is told of each cell: both values, the mean, and of how many runs."""
    told = []
    for row, column in np.ndindex(*means.shape):
        where = [f"{names[0]}: {down[row]}", f"{names[1]}: {across[column]}"] if down and across else []
        count = len(cells.get((row, column), ()))
        there = f"{names[2]}: {means[row, column]:.5g}, {count} run{'s' * (count != 1)}"
        told.append("\n".join([*where, there if count else "no run"]))
    return told


def _cells(axes: Axes, means: NDArray[Any], picture: Any, *, maximize: bool, written: bool) -> None:
    """Write numbers and dashes into the cells, and frame the best one."""
    there = np.isfinite(means)
    form = digits([float(value) for value in means[there]]) if there.any() else ""
    for row, column in np.ndindex(*means.shape):
        value = means[row, column]
        if written:
            deep = there[row, column] and picture.cmap(picture.norm(value))[3] > 0.55
            words = format(value, form) if there[row, column] else "\u2013"
            look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8 if len(words) < 8 else 6.5}
            axes.text(column + 0.5, row + 0.5, words, color=PAPER if deep else INK, **look)
    if there.any():
        place = np.nanargmax(means) if maximize else np.nanargmin(means)
        row, column = np.unravel_index(place, means.shape)
        frame = Rectangle(
            (float(column), float(row)), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2.2, clip_on=False
        )
        axes.add_patch(frame)


def comparison(
    parameter: Column, metric: Column, lam: Column | None, runs: Sequence[int], *, maximize: bool, title: str
) -> Figure:
    """Draw every run over the values of a parameter, and the means of each lambda with their spread."""
    runs = [run for run in runs if parameter.at(run) is not None and metric.at(run) is not None]
    lambdas = sorted({lam.at(run) for run in runs if lam.at(run) is not None}, key=_order) if lam is not None else []
    series: list[tuple[str, list[int]]] = [("runs", runs)]
    if lam is not None and len(lambdas) > 1:
        series = [(drawable(shown(value), 20), [run for run in runs if lam.at(run) == value]) for value in lambdas]
        rest = [run for run in runs if lam.at(run) is None]
        series += [(drawable(f"no {lam.name}", 20), rest)] if rest else []
    numeric = parameter.numeric
    there = {parameter.at(run) for run in runs}
    values = [value for value in parameter.distinct if value in there]
    figure = new_figure(max(6.4, min(11.0, 2 + 0.6 * len(values) if not numeric else 0)), 4.2)
    axes = figure.subplots()
    for number, (name, members) in enumerate(series):
        colour = _colour(number, len(series))
        shift = 0.0 if numeric else 0.5 * ((number + 0.5) / len(series) - 0.5)
        _series(axes, parameter, metric, members, values, colour, shift, name)
    quiet(axes, title="", x="", y="")
    if numeric:
        number_axis(axes, parameter)
    else:
        labels = [drawable(value, 24) for value in values]
        upright = sum(map(len, labels)) * 0.075 > 5
        thin(axes.xaxis, labels, 6.0, **({"rotation": 90} if upright else {}))
        axes.set_xlim(-0.6, max(len(values), 1) - 0.4)
    heights = [float(metric.values[run]) for run in runs]
    if runs and (span := max(heights) - min(heights)):  # an interval of two seeds may be thirty times as wide
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, min(heights) - span), min(high, max(heights) + span))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(drawable(parameter.name, 60), parse_math=False)
    better = "higher" if maximize else "lower"
    axes.set_ylabel(f"{drawable(metric.name, 30)} ({better} is better)", parse_math=False)
    write_title(figure, drawable(title, 120))
    if len(series) > 1 and lam is not None:
        handles, labels = axes.get_legend_handles_labels()
        stride = math.ceil(len(handles) / _NAMED)
        named = [*range(0, len(handles), stride)]
        look: dict[str, Any] = {"loc": "outside right upper", "frameon": False, "fontsize": 8, "title_fontsize": 8}
        key = figure.legend([handles[i] for i in named], [labels[i] for i in named], title="x", **look)
        key.get_title().set(text=drawable(lam.name, 20), parse_math=False)
    return figure


def number_axis(axes: Axes, column: Column) -> None:
    """Give the x axis the scale of a column of numbers, with labels that keep apart."""
    if column.log:
        axes.set_xscale("log")
        wide = column.distinct[-1] >= 1000 * column.distinct[0]
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=9))
        axes.xaxis.set_major_formatter(LogFormatterSciNotation() if wide else (lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8))


def _series(
    axes: Axes,
    parameter: Column,
    metric: Column,
    runs: Sequence[int],
    values: Sequence[Any],
    colour: Any,
    shift: float,
    name: str,
) -> None:
    place = (lambda value: value) if parameter.numeric else (lambda value: values.index(value) + shift)
    x = [place(parameter.at(run)) for run in runs]
    many = len(values) > _JOINED and parameter.numeric
    faint: dict[str, Any] = {"ms": 4, "mew": 0, "alpha": 0.75 if many else 0.3}
    axes.plot(
        x,
        [float(metric.values[run]) for run in runs],
        "o",
        color=colour,
        label=legend_name(name) if many else None,
        **faint,
    )
    if many:
        return
    at = [value for value in values if any(parameter.at(run) == value for run in runs)]
    means = [interval([float(metric.values[run]) for run in runs if parameter.at(run) == value]) for value in at]
    centres = [place(value) for value in at]
    look: dict[str, Any] = {"color": colour, "ms": 6, "lw": 1.4, "label": legend_name(name)}
    (drawn,) = axes.plot(centres, [mean.mean for mean in means], "o-" if parameter.numeric else "o", **look)
    draw_spread(axes, centres, means, colour)
    told = [f"{shown(v)}: {written(m)}, {m.n} runs" for v, m in zip(at, means, strict=True)]
    tell(drawn, name, told)


def _colour(number: int, count: int) -> Any:
    if count == 1:
        return COLOURS[0]
    return matplotlib.colormaps["viridis"](0.3 + 0.5 * number / (count - 1))  # is seen on white and on black


def _order(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value
