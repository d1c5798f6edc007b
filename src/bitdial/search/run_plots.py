"""Figures of runs as a whole: importance of parameters, parallel coordinates, and the Pareto front of two metrics."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bitdial.evaluation.drawing import COLOURS, FAINT, INK
from bitdial.evaluation.plot_style import new_figure, place_labels, quiet
from bitdial.evaluation.svg import tell
from bitdial.evaluation.width_plots import write_title
from bitdial.search.columns import Column, shown
from bitdial.search.drawing import drawable
from bitdial.search.groups import Configuration

MOST_AXES = 8
"""How many axes parallel coordinates have, that of the metric among them."""
MOST_BARS = 25
_LABELLED = 8


def importance_bars(shares: Mapping[str, float], *, title: str, method: str) -> Figure:
    """Draw a bar a parameter, the most important one on top."""
    kept = list(shares.items())[:MOST_BARS]
    figure = new_figure(6.4, 1.3 + 0.24 * max(len(kept), 3))
    axes = figure.subplots()
    rows = np.arange(len(kept))
    axes.barh(rows, [100 * share for _, share in kept], height=0.7, color=COLOURS[0])
    for row, (_, share) in enumerate(kept):
        axes.text(100 * share + 1, row, f"{100 * share:.0f}%", va="center", fontsize=8, color=INK)
    left_out = f", the first {len(kept)} of {len(shares)}" if len(kept) < len(shares) else ""
    quiet(axes, title="", x=f"share of the importance, % ({method}{left_out})", y="")
    axes.set_yticks(rows, [drawable(name, 36) for name, _ in kept], fontsize=8, parse_math=False)
    axes.set(ylim=(len(kept) - 0.4, -0.6), xlim=(0, max(1.15 * 100 * max((s for _, s in kept), default=1), 5)))
    axes.grid(visible=False, axis="y")
    write_title(figure, drawable(title, 120))
    return figure


def parallel_coordinates(
    columns: Sequence[Column], metric: Column, runs: Sequence[int], *, maximize: bool, title: str
) -> Figure:
    """Draw an axis a parameter and one for the metric, and a line a run, darker the better; logarithmic where due."""
    drawn = [*columns[: MOST_AXES - 1], metric]
    figure = new_figure(max(5.0, 1.35 * len(drawn) + 0.6), 4.2)
    axes = figure.subplots()
    heights = np.array([[_height(column, run) for column in drawn] for run in runs]).reshape(len(runs), len(drawn))
    missing = bool(np.isnan(heights).any())
    order = np.argsort(heights[:, -1] * (1 if maximize else -1))
    goodness = heights[:, -1] if maximize else 1 - heights[:, -1]
    lines = np.nan_to_num(heights, nan=-0.12)
    many = len(runs) > 100
    collection = LineCollection(
        [np.column_stack([np.arange(len(drawn)), lines[run]]) for run in order],
        colors=[matplotlib.colormaps["viridis_r"](0.05 + 0.95 * np.nan_to_num(goodness[run])) for run in order],
        linewidths=0.8 if many else 1.3,
        alpha=0.5 if many else 0.8,
    )
    axes.add_collection(collection)
    halo: dict[str, Any] = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    for place, column in enumerate(drawn):
        axes.plot([place, place], [0, 1], color=INK, lw=1)
        for height, label in _ticks(column):
            axes.plot([place - 0.03, place], [height, height], color=INK, lw=0.8)
            axes.text(
                place - 0.05,
                height,
                drawable(label, 14),
                fontsize=7,
                ha="right",
                va="center",
                bbox=halo,
                parse_math=False,
            )
        name = drawable(column.name, 17)
        low = " (log)" if column.log else ""
        axes.text(place, 1.06, f"{name}\n{low.strip()}", fontsize=8, ha="center", va="bottom", parse_math=False,
                  fontweight="bold" if column is metric else "normal")  # fmt: skip
        if missing:
            axes.text(place - 0.05, -0.12, "\u2013", fontsize=8, ha="right", va="center", color=FAINT)
    axes.set(xlim=(-0.75, len(drawn) - 0.6), ylim=(-0.18 if missing else -0.05, 1.02))
    axes.axis("off")
    more = len(columns) - (len(drawn) - 1)
    write_title(figure, drawable(title + (f"; {more} more parameters not drawn" if more > 0 else ""), 120))
    return figure


def _height(column: Column, run: int) -> float:
    value = column.at(run)
    if value is None:
        return math.nan
    if isinstance(value, str):
        return (column.distinct.index(value) + 0.5) / len(column.distinct)
    low, high = column.distinct[0], column.distinct[-1]
    if low == high:
        return 0.5
    return math.log(value / low) / math.log(high / low) if column.log else (value - low) / (high - low)


def _ticks(column: Column) -> list[tuple[float, str]]:
    """Heights and labels, at most eight: all choices if they are few, and round numbers between lowest and highest."""
    there = column.distinct
    if not column.numeric:
        stride = math.ceil(len(there) / 8)
        return [((place + 0.5) / len(there), there[place]) for place in range(0, len(there), stride)]
    if len(there) < 2:
        return [(0.5, shown(value)) for value in there]
    low, high = there[0], there[-1]
    if len(there) <= _LABELLED:
        scale = math.log if column.log else float
        heights = [(scale(value) - scale(low)) / (scale(high) - scale(low)) for value in there]
        if min(b - a for a, b in itertools.pairwise(heights)) > 0.06:
            return list(zip(heights, map(shown, there), strict=True))
    if column.log:
        places = [0.0, 0.25, 0.5, 0.75, 1.0]
        return [(place, f"{there[0] * (there[-1] / there[0]) ** place:.2g}") for place in places]
    inner = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
    return [((tick - low) / (high - low), f"{tick:.6g}") for tick in inner]


def pareto(
    groups: Sequence[Configuration],
    across: Column,
    up: Column,
    names: Mapping[int, str],
    *,
    maximize: tuple[bool, bool],
    title: str,
) -> Figure:
    """Draw configurations over two metrics, and those that none beats in both."""
    points = pareto_points(groups, across, up)
    front = pareto_front([point for _, point in points], maximize)
    figure = new_figure(6.8, 4.6)
    axes = figure.subplots()
    if points:
        x, y = zip(*[point for _, point in points], strict=True)
        look: dict[str, Any] = {"ms": 4 if len(points) > 100 else 5, "mew": 0, "alpha": 0.6}
        (line,) = axes.plot(x, y, "o", color=FAINT, label="configuration", **look)
        tell(line, "", [_said(group, names, across, up, point) for group, point in points])
    best = sorted(points[number][1] for number in front)
    if best:
        (line,) = axes.plot(*zip(*best, strict=True), "o-", color=COLOURS[1], ms=6, lw=1.3, label="Pareto front")
        tell(line, "", ())  # its points are configurations, which tell of themselves
    quiet(axes, title="", x="", y="")
    ways = ["higher is better" if each else "lower is better" for each in maximize]
    axes.set_xlabel(f"{drawable(across.name, 40)} ({ways[0]})", parse_math=False)
    axes.set_ylabel(f"{drawable(up.name, 30)} ({ways[1]})", parse_math=False)
    axes.margins(0.14)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_major_locator(MaxNLocator(7))
    write_title(figure, drawable(title, 120))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    if 0 < len(front) <= _LABELLED:
        labels = [drawable(names[points[number][0].runs[0]], 22) for number in front]
        axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
        others = [point for number, (_, point) in enumerate(points) if number not in front][:200]
        at = [points[number][1] for number in front]
        place_labels(axes, at, labels, [None] * len(at), [FAINT] * len(at), around=others)
    return figure


def _said(
    group: Configuration, names: Mapping[int, str], across: Column, up: Column, point: tuple[float, float]
) -> str:
    more = f" and {len(group.runs) - 1} more" if len(group.runs) > 1 else ""
    return f"{names[group.runs[0]]}{more}\n{across.name}: {point[0]:.5g}\n{up.name}: {point[1]:.5g}"


def pareto_points(
    groups: Sequence[Configuration], across: Column, up: Column
) -> list[tuple[Configuration, tuple[float, float]]]:
    """Return configurations with the means of two metrics, those that have both."""
    points = []
    for group in groups:
        x, y = group.interval(across), group.interval(up)
        if x and y and math.isfinite(x.mean) and math.isfinite(y.mean):
            points.append((group, (float(x.mean), float(y.mean))))
    return points


def pareto_front(points: Sequence[tuple[float, float]], maximize: tuple[bool, bool]) -> list[int]:
    """Return the numbers of the points that no other is better than in one metric and as good in the other."""
    turned = [tuple(-v if m else v for v, m in zip(point, maximize, strict=True)) for point in points]
    front: list[int] = []
    lowest = math.inf
    for number in sorted(range(len(turned)), key=turned.__getitem__):
        if turned[number][1] < lowest or (front and turned[number] == turned[front[-1]]):
            front.append(number)
            lowest = turned[number][1]
    return front
