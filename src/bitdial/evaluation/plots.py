"""The figures of a comparison: what each arm is worth at each width, and what it cost.

All of them use matplotlib's object interface on the Agg canvas: no display, no global state, safe in threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bitdial.evaluation.drawing import AXIS, FAINT, INK, STAR
from bitdial.evaluation.plot_style import Style, arm_styles, draw_spread, legend_name, new_figure, place_labels, quiet
from bitdial.evaluation.recommendation import name_of
from bitdial.evaluation.results import ArmSummary, Candidate, Comparison
from bitdial.evaluation.svg import tell
from bitdial.evaluation.wording import bars_note, engineering, half_shown, percent

CLOSE_UP = 3
"""When accuracies spread over so many times as much as the better half of them, that half gets a panel of its own."""

_MATTER = {"cpt": "the cyclic arm", "matched": "its matched cost", "baseline": "the baseline"}


def width_caption(comparison: Comparison) -> str:
    """Return what `accuracy_against_width` shows, of this very comparison."""
    return (
        "Accuracy of every arm when its model is dialled to each width, batch-norm statistics re-estimated there "
        f"unless that was switched off. {_coloured(comparison)} A ring marks an arm's own width, the star what is "
        f"recommended.{_bars(comparison)}"
    )


def cost_caption(comparison: Comparison) -> str:
    """Return what `accuracy_against_cost` shows, of this very comparison."""
    return (
        "Accuracy of every arm at its own width against the simulated cost of training, and against the wall-clock "
        f"seconds that the same steps took; the star is what is recommended. {_coloured(comparison)} The line joins "
        f"the arms that no other arm beats in accuracy for the same cost or less.{_bars(comparison)}"
    )


def _coloured(comparison: Comparison) -> str:
    kinds = [row.kind for row in comparison.summaries]
    there = ["what is recommended", *(words for kind, words in _MATTER.items() if kind in kinds)]
    return f"Coloured: {', '.join(there)}; grey: the others."


def _bars(comparison: Comparison) -> str:
    note = bars_note(row.own.n for row in comparison.summaries)
    return f" {note[0].upper()}{note[1:]}." if note else ""


def accuracy_against_width(comparison: Comparison) -> Figure | None:
    """Draw accuracy at each target width for every arm, with what seeds say of it; None when nothing was scored.

    A ring marks the own width of an arm, a star the recommended candidate. Widths are spaced by their logarithm; arms
    stand slightly apart so that their bars or dots can be told from each other.
    """
    rows = comparison.summaries
    widths = sorted({float(key) for row in rows for key in row.accuracy})
    if not widths:
        return None
    means = [value.mean for row in rows for value in row.accuracy.values() if math.isfinite(value.mean)]
    better = [mean for mean in means if mean >= float(np.median(means))] if means else []
    split = len(means) > 3 and max(means) - min(means) > CLOSE_UP * (max(better) - min(better))
    figure = new_figure(10.5, 4.6)
    panels = list(figure.subplots(1, 2 if split else 1, squeeze=False).flat)
    for axes, title in zip(panels, ("Accuracy at each width", "The same, close up"), strict=False):
        _width_curves(axes, comparison, widths)
        quiet(axes, title=title, x="width of weights and activations (bits)", y="accuracy (%)")
    if split:
        low, high = _padded([100 * mean for mean in better])
        panels[1].set(ylim=(low, high), ylabel=f"accuracy (%), from {low:.3g} on")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def accuracy_against_cost(comparison: Comparison) -> Figure | None:
    """Draw accuracy at the own width against simulated training BitOps and against wall-clock seconds.

    A star marks the recommended candidate. The line is the Pareto front: no arm above it for the same cost. None when
    no arm has a finite accuracy.
    """
    rows = [row for row in comparison.summaries if math.isfinite(row.own.mean)]
    if not rows:
        return None
    figure = new_figure(10.5, 4.9)
    left, right = figure.subplots(1, 2, sharey=True)
    panels: list[tuple[Axes, Callable[[ArmSummary], float], str, str, str]] = [
        (
            left,
            lambda row: row.bitops,
            "Accuracy against simulated cost",
            "training BitOps (simulated)",
            "accuracy at its own width (%)",
        ),
        (right, lambda row: row.seconds, "Accuracy against time", "training time (seconds, wall-clock)", ""),
    ]
    chosen = comparison.summary(comparison.recommended)
    shown = [*rows, *_apart(comparison)]
    styles = arm_styles(rows, comparison.recommended)
    low, high = _readable([100 * row.own.mean for row in shown])
    fronts = []
    for axes, cost, title, along, up in panels:
        _star(axes, cost(chosen), comparison.chosen, size=22, label="recommended")
        for row in shown:
            style = styles[row.name]
            order, large = (4, 9) if style.stands_out else (3, 6)
            there = 100 * row.own.mean >= low  # one far below the others stands at the foot, and says so
            x, y = [cost(row)], [100 * row.own.mean if there else low]
            (line,) = axes.plot(x, y, style.marker, ms=large, color=style.colour, zorder=order, clip_on=there)
            if there:
                draw_spread(axes, x, [row.own], style.colour, scale=100, zorder=order)
            unit = f"{engineering(row.bitops)} BitOps, {row.seconds:.3g} s"
            tell(line, "", [f"{row.name}, {row.own_label} bits\n{percent(row.own)}\n{unit}"])
        fronts.append(_front(axes, rows, cost))
        quiet(axes, title=title, x=along, y=up)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    left.set_ylim(low, high)
    cut = min(100 * row.own.mean for row in shown) < low
    if cut:
        left.set_ylabel(f"accuracy at its own width (%), from {low:.3g} on")
    names = [
        f"{row.name} ({row.own_label.replace(' alternating', '')})"
        + (f": {percent(row.own)}" if 100 * row.own.mean < low else "")
        for row in shown
    ]
    for (axes, cost, *_), front in zip(panels, fronts, strict=True):
        points = [(cost(row), max(100 * row.own.mean, low)) for row in shown]
        _cost_axis(axes, [x for x, _ in points])
        halves = [_half(row) if 100 * row.own.mean >= low else None for row in shown]
        place_labels(axes, points, names, halves, [styles[row.name].colour for row in shown], front)
    return figure


def _width_curves(axes: Axes, comparison: Comparison, widths: list[float]) -> None:
    chosen = comparison.chosen
    styles, starred = arm_styles(comparison.summaries, comparison.recommended), chosen.bits
    rows = sorted(comparison.summaries, key=lambda row: not styles[row.name].stands_out)
    for index, row in enumerate(rows):
        shift = 2 ** ((index - (len(rows) - 1) / 2) * 0.035)
        _arm(axes, row, styles[row.name], widths, shift)
        starred = chosen.bits * shift if row.name == chosen.arm else starred
    axes.plot([], [], "o", ms=11, mfc="none", mec=FAINT, mew=1.4, label="ring: own width")
    _star(axes, starred, chosen, size=17, label=legend_name(f"recommended: {name_of(chosen)}"))
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [f"{width:g}" for width in widths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(top=min(101.0, axes.get_ylim()[1]), bottom=max(-1.0, axes.get_ylim()[0]))


def _arm(axes: Axes, row: ArmSummary, style: Style, widths: list[float], shift: float) -> None:
    measured = [(width, row.accuracy[f"{width:g}"]) for width in widths if f"{width:g}" in row.accuracy]
    x = [width * shift for width, _ in measured]
    y = [100 * value.mean for _, value in measured]
    order = 3 if style.stands_out else 2
    line: dict[str, Any] = {"ls": style.line, "color": style.colour, "marker": style.marker, "zorder": order}
    line |= {"ms": 6, "lw": 2.2} if style.stands_out else {"ms": 4.5, "lw": 1.0}
    (drawn,) = axes.plot(x, y, label=legend_name(row.name), **line)
    tell(drawn, row.name, [f"{width:g} bits: {percent(value)}" for width, value in measured])
    alpha = 0.6 if style.stands_out else 0.3
    draw_spread(axes, x, [value for _, value in measured], style.colour, scale=100, alpha=alpha)
    at = row.own_bits * shift, 100 * row.own.mean
    axes.plot(*[[each] for each in at], style.marker, ms=line["ms"], color=style.colour, zorder=order)
    (ring,) = axes.plot(*[[each] for each in at], "o", ms=11, mfc="none", mec=style.colour, mew=1.4, zorder=order)
    if f"{row.own_bits:g}" not in row.accuracy:  # of mixed widths, whose mean is none of the others
        tell(ring, row.name, [f"{row.own_label} bits: {percent(row.own)}"])


def _star(axes: Axes, x: float, chosen: Candidate, *, size: float, label: str) -> None:
    look: dict[str, Any] = {"mfc": STAR, "mec": INK, "mew": 1.0, "zorder": 2.8, "ls": "none"}
    (star,) = axes.plot([x], [100 * chosen.accuracy.mean], "*", ms=size, label=label, **look)
    tell(star, "", [f"recommended: {name_of(chosen)}\n{percent(chosen.accuracy)}"])


def _apart(comparison: Comparison) -> list[ArmSummary]:
    """Return the recommended arm as it is at the recommended width, unless that is its own, where it stands already."""
    chosen, row = comparison.chosen, comparison.summary(comparison.recommended)
    at = {"own": chosen.accuracy, "own_bits": chosen.bits, "own_label": chosen.label}
    return [] if chosen.label == row.own_label else [row.model_copy(update=at)]


def _half(row: ArmSummary) -> float | None:
    half = half_shown(row.own)
    return None if half is None else 100 * half


def _front(axes: Axes, rows: list[ArmSummary], cost: Callable[[ArmSummary], float]) -> list[tuple[float, float]]:
    """Draw the Pareto front; return places along it."""
    front: list[ArmSummary] = []
    for row in sorted(rows, key=lambda row: (cost(row), -row.own.mean)):
        if not front or row.own.mean > front[-1].own.mean:
            front.append(row)
    x, y = [cost(row) for row in front], [100 * row.own.mean for row in front]
    (line,) = axes.step(x, y, where="post", color=AXIS, lw=1.6, zorder=1, label="Pareto front")
    tell(line, "", ())
    places = []
    for (x0, y0), (x1, y1) in pairwise(zip(x, y, strict=True)):
        places += [(x0 * (x1 / x0) ** part if x0 > 0 else x1 * part, y0) for part in np.linspace(0, 1, 30).tolist()]
        places += [(x1, y0 + part * (y1 - y0)) for part in np.linspace(0, 1, 12).tolist()]
    return places


def _cost_axis(axes: Axes, cost: list[float]) -> None:
    """Scale the axis of cost (by its logarithm over a wide range), and leave room for names at both ends."""
    low, high = min(cost), max(cost)
    if low > 0 and high > 2.5 * low:
        axes.set_xscale("log")
        stretch = (high / low) ** 0.3
        axes.set_xlim(low / stretch, high * stretch)
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0) if high > 20 * low else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
        )
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        spread = (high - low) or high or 1.0
        axes.set_xlim(max(0.0, low - 0.3 * spread), high + 0.3 * spread)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _tick(value: float) -> str:
    number, _, prefix = engineering(value).partition(" ")
    return f"{float(number):g} {prefix}".rstrip()


def _readable(values: list[float]) -> tuple[float, float]:
    """Limits of an axis on which the better half can be told apart, however bad the worst is."""
    high = max(values)
    near = max(8 * (high - float(np.median(values))), 1.0)
    return _padded([value for value in values if value >= high - near])


def _padded(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = max(0.25 * (high - low), 0.3)
    return low - pad, min(high + pad, 100 + pad / 2)
