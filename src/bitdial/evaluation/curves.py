"""The figure of training itself: loss, learning rate, bits and flips over the steps, as far as a run has them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bitdial.evaluation.drawing import AXIS, COLOURS
from bitdial.evaluation.plot_style import legend_name, new_figure, quiet
from bitdial.evaluation.results import History
from bitdial.evaluation.svg import tell
from bitdial.training import CsvLog

LOSS, RATE, BITS, FLIPS = "training loss", "learning rate", "width (bits)", "flips (% a step)"
"""The panels, from top to bottom."""
FLIPS_TOLD = (
    "flips: how many of a layer's weights changed their sign, from row to row of the log, in a step; a mean over layers"
)
"""What a caption says of the last."""
Panels: TypeAlias = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""By panel, steps and the values at them."""
FEW_CYCLES = 5
"""How many cycles the close-up shows."""
MANY_CYCLES = 60
"""From here on a whole run is too dense for single cycles: boundaries go, and bits are drawn as a band."""
_MOST = 2000
"""About how many steps are drawn; of more, every so many."""
_HEIGHTS = {LOSS: 2.2}
_COLOURS = {LOSS: COLOURS[0], RATE: COLOURS[2], BITS: COLOURS[1], FLIPS: COLOURS[3]}


def panels_of(step: Sequence[float], *, loss: Sequence[float], rate: Sequence[float], bits: Sequence[float]) -> Panels:
    """Return the panels of a history, without those that it does not have."""
    return {name: (step, values) for name, values in ((LOSS, loss), (RATE, rate), (BITS, bits)) if len(values)}


def panels_of_log(path: Path, scope: Mapping[str, str]) -> Panels:
    """Return the panels of one network from a run's log, whose rows are those that have the cells of `scope`."""
    rows = _rows(path, scope)
    steps = [row for row in rows if row.get("train_loss")]
    panels: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for name, column in ((LOSS, "train_loss"), (RATE, "learning_rate"), (BITS, "bits")):
        if steps and all(row.get(column) for row in steps):
            panels[name] = [float(row["step"]) for row in steps], [float(row[column]) for row in steps]
    return {**panels, **_flips([*rows, *_rows(_layers(path), scope)])}


def flips_of_log(path: Path, scope: Mapping[str, str]) -> Panels:
    """Return the panel of flips of one network, if they were logged: the mean of its layers, in per cent a step.

    They stand in ``layers.csv`` beside a run's log, or in the log itself.
    """
    return _flips([*_rows(path, scope), *_rows(_layers(path), scope)])


def _flips(rows: Sequence[Mapping[str, str]]) -> Panels:
    """The panel of rows that have flips of single layers.

    Rows at the end of an epoch come soon after another, and would be dents: each value is of as many steps as the rows
    that are furthest apart, or a few more.
    """
    flips: dict[float, list[float]] = {}
    for row in rows:
        if found := [float(value) for name, value in row.items() if name.startswith("flips/") and value]:
            flips[float(row["step"])] = found
    if not flips:
        return {}
    steps = sorted(flips)
    apart = max(after - before for before, after in pairwise([0.0, *steps]))
    values, since, moved = dict[float, float](), 0.0, 0.0
    for step in steps:
        moved += 100 * sum(flips[step]) / len(flips[step])
        if step - since >= apart:
            values[step] = moved / (step - since)
            since, moved = step, 0.0
    return {FLIPS: (list(values), list(values.values()))}


def _layers(path: Path) -> Path:
    return path.with_name("layers.csv")


def _rows(path: Path, scope: Mapping[str, str]) -> list[dict[str, str]]:
    return [row for row in CsvLog(path).rows() if all(row.get(name, value) == value for name, value in scope.items())]


def history_curves(history: History, name: str, flips: Panels | None = None) -> Figure | None:
    """Draw a history, whole and, where bits cycle, close up with the boundaries; None without one.

    Args:
        history: of one network.
        name: of the network.
        flips: of it, from `flips_of_log`.
    """
    step = history.step
    panels = panels_of(step, loss=history.loss, rate=history.learning_rate, bits=history.bits)
    return training_curves({name: {**panels, **(flips or {})}} if step else {}, boundaries=history.cycle_boundaries)


def training_curves(
    runs: Mapping[str, Panels],
    *,
    boundaries: Sequence[int] = (),
    colours: Mapping[str, str] | None = None,
    unit: str = " (nats)",
) -> Figure | None:
    """Draw what changed over the steps, a panel each; None where there is nothing.

    Of one run its loss is drawn at every step and smoothed, and a few of its cycles, if it has many, close up; of
    several, smoothed alone. A loss that is not finite leaves a gap and a cross.

    Args:
        runs: the panels of each, by name.
        boundaries: steps at which a cycle of the precision starts.
        colours: of the runs, where there are several.
        unit: of the loss, as it stands behind its name.
    """
    names = [name for name in _COLOURS if any(name in panels for panels in runs.values())]
    if not names:
        return None
    last = max(steps[-1] for panels in runs.values() for steps, _ in panels.values())
    edges = [edge for edge in boundaries if edge <= last]
    close = len(edges) > FEW_CYCLES + 1 and len(runs) == 1
    heights = [_HEIGHTS.get(name, 1.0) for name in names]
    figure = new_figure(10.5, 1.1 + 1.15 * sum(heights))
    ratios: dict[str, Any] = {"height_ratios": heights, "width_ratios": [2, 1] if close else None}
    grid = figure.subplots(len(names), 2 if close else 1, sharex="col", squeeze=False, **ratios)
    dense = len(edges) > MANY_CYCLES
    for run, panels in runs.items():
        alone = None if len(runs) == 1 else (colours or {})[run]
        for axes, name in zip(grid[:, 0], names, strict=True):
            if name in panels:
                _panel(axes, name, run, panels[name], alone, edges if dense else [])
        if close:
            window = edges[len(edges) // 2 :][: FEW_CYCLES + 1]
            for axes, name in zip(grid[:, 1], names, strict=True):
                _close_up(axes, name, panels[name], window)
    title = f"{next(iter(runs))}: the whole run" if len(runs) == 1 else "Training"
    _finish(grid[:, 0], names, title, [] if dense else edges)
    finite = [loss for panels in runs.values() for loss in panels.get(LOSS, ([], []))[1] if math.isfinite(loss)]
    if finite:  # one spike must not press the rest of the curve flat
        low, high = min(finite), float(np.quantile(finite, 0.995))
        grid[0, 0].set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low) + 1e-9)
    grid[0, 0].set_xlim(min(steps[0] for panels in runs.values() for steps, _ in panels.values()), last + 1)
    if close:
        _finish(grid[:, 1], ["" for _ in names], f"{len(window) - 1} cycles, close up", window)
        grid[0, 1].set_xlim(window[0], window[-1])
    found = {label: line for axes in grid[:, 0] for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    if LOSS in names:
        grid[0, 0].set_ylabel(LOSS + unit)
    figure.align_ylabels()
    return figure


def _panel(axes: Axes, name: str, run: str, series: Any, alone: str | None, cycles: Sequence[int]) -> None:
    """Draw one panel of a run, in a colour of the run's own where there are several."""
    step, values = (np.asarray(each, dtype=float) for each in series)
    colour = alone or _COLOURS[name]
    label = legend_name(run) if alone else None
    known = label in axes.get_legend_handles_labels()[1]
    broken, stride = ~np.isfinite(values), -(-len(step) // _MOST)
    if name == BITS and cycles:
        _bits_band(axes, step, values, cycles)
    elif name == LOSS and len(step) > 40:
        span = max(3, len(step) // 40)
        if alone is None:
            raw = np.where(broken, np.nan, values)
            axes.plot(step[::stride], raw[::stride], color=colour, lw=0.8, alpha=0.4)
            label = f"loss, mean over {span} logged steps"
        smooth = running_mean(values, span)[::stride]
        (line,) = axes.plot(step[::stride], smooth, color=colour, lw=1.8, label=None if known else label)
        tell(line, run)
    else:
        style = "steps-post" if name == BITS else "default"
        marker = "" if len(step) > 2 else "o"
        look: dict[str, Any] = {"drawstyle": style, "marker": marker, "ms": 4, "lw": 1.4}
        (line,) = axes.plot(step[::stride], values[::stride], color=colour, **look)
        line.set_label("" if known or not label else label)
        tell(line, run)
    if name == LOSS and broken.any():
        at = step[broken][:: -(-int(broken.sum()) // 200)]
        look = {"color": COLOURS[1], "transform": axes.get_xaxis_transform(), "label": "not finite"}
        axes.plot(at, [0.97] * len(at), "x", **look)


def _close_up(axes: Axes, name: str, series: Any, window: Sequence[int]) -> None:
    """Draw one panel between the first and the last of some boundaries."""
    step, values = (np.asarray(each, dtype=float) for each in series)
    shown = (window[0] <= step) & (step <= window[-1])
    style = "steps-post" if name == BITS else "default"
    (line,) = axes.plot(step[shown], values[shown], color=_COLOURS[name], lw=1.3, drawstyle=style)
    tell(line, "")


def _finish(column: Sequence[Axes], names: Sequence[str], title: str, edges: Sequence[int]) -> None:
    """Name the axes, and mark where cycles start: vertical lines are that, and nothing else."""
    for axes, name in zip(column, names, strict=True):
        first, foot = axes is column[0], axes is column[-1]
        quiet(axes, title=title if first else "", x="step" if foot else "", y=name)
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(6 if first else 4, integer=name == BITS))
        for edge in edges:
            label = "start of a cycle" if first and name and edge == edges[0] else None
            axes.axvline(edge, color=AXIS, lw=0.7, ls=(0, (2, 2)), zorder=0, label=label)
        if name in (BITS, FLIPS):
            axes.set_ylim(bottom=0)
    column[-1].xaxis.set_major_locator(MaxNLocator(5 if not names[0] else 8, integer=True))


def _bits_band(axes: Axes, step: NDArray[Any], bits: NDArray[Any], edges: Sequence[int]) -> None:
    cycle = np.searchsorted(edges, step, side="right")
    parts = [bits[cycle == number] for number in np.unique(cycle)]
    starts = [step[cycle == number][0] for number in np.unique(cycle)]
    low, high = [part.min() for part in parts], [part.max() for part in parts]
    colour = _COLOURS[BITS]
    axes.fill_between(starts, low, high, step="post", color=colour, alpha=0.25, lw=0, label="bits, lowest to highest")
    axes.plot(starts, [part.mean() for part in parts], color=colour, lw=1.4, label="bits, mean of the cycle")


def running_mean(values: NDArray[np.float64], span: int) -> NDArray[np.float64]:
    """Return the centred mean over `span` entries, of those that are finite and there."""
    kernel = np.ones(span)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), kernel, mode="full")
    count = np.convolve(finite.astype(float), kernel, mode="full")
    half = span // 2
    total, count = total[half : half + len(values)], count[half : half + len(values)]
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return mean
