"""The figure of a classifier's mistakes: which class is taken for which, and how often each is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from bitdial.evaluation.drawing import COLOURS, INK, PAPER
from bitdial.evaluation.plot_style import new_figure, quiet, shades
from bitdial.evaluation.svg import tell
from bitdial.evaluation.width_plots import shortened

_WRITTEN = 12
"""Up to so many classes, the cells have their numbers written in."""


def confusion_caption(of: str) -> str:
    """Return what `confusion_matrix` shows of a network."""
    return f"The test data as {of} sees them. Left: of each true class (row), the share that it takes for each class."


def confusion_matrix(tables: Sequence[Sequence[Sequence[int]]], names: Sequence[str], title: str) -> Figure | None:
    """Draw the share of each class that is taken for each class, and the accuracy of each; None without a table.

    Args:
        tables: counts ``[K, K]``, one a seed, which are added: true classes are rows.
        names: of the classes; numbers where there are not as many.
        title: what stands above.
    """
    sound = [table for table in tables if table]
    if not sound:
        return None
    counts = np.sum(np.asarray(sound), axis=0)
    size = len(counts)
    known = names if len(names) == size else [*map(str, range(size))]
    words = [shortened(" ".join(name.split()), 14) for name in known]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(2.6, min(6.5, 0.44 * size))
    figure = new_figure(min(2 * side + 3.2, 11.0), side + 1.3)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.25, 1])
    mesh = left.pcolormesh(shares, cmap=shades(), norm=PowerNorm(0.5, 0, 1), edgecolors=PAPER, linewidth=0.5)
    told = [
        f"{words[row]} taken for {words[column]}\n{count} of {counts[row].sum()}, {shares[row, column]:.1%}"
        for (row, column), count in np.ndenumerate(counts)
    ]
    tell(mesh, "", told)
    if size <= _WRITTEN:
        _numbers(left, shares)
    places = np.arange(size) + 0.5
    quiet(left, title=title, x="predicted", y="true class")
    left.grid(visible=False)
    upright = max(map(len, words)) > 3
    turned: dict[str, Any] = {"rotation": 90, "rotation_mode": "anchor", "ha": "right", "va": "center"}
    left.set_xticks(places, words, fontsize=8, parse_math=False, **(turned if upright else {}))
    left.set_yticks(places, words, fontsize=8, parse_math=False)
    left.tick_params(length=0)
    rates = 100 * np.diagonal(shares)
    right.barh(places, rates, height=0.7, color=COLOURS[0])
    worst = float(rates.min())
    low = max(0.0, worst - 0.6 * (100 - worst) - 1) if worst > 60 else 0.0
    start = f", from {low:.3g} on" if low else ""
    quiet(right, title="Accuracy of each class", x=f"right answers (%){start}", y="")
    right.set(xlim=(low, 100 + 0.12 * (100 - low)), ylim=(size, 0))
    for place, rate in zip(places.tolist(), rates.tolist(), strict=True):
        right.text(rate + 0.01 * (100 - low), place, f"{rate:.1f}", va="center", fontsize=8, color=INK)
    right.grid(visible=False, axis="y")
    right.tick_params(labelleft=False, left=False)
    return figure


def _numbers(axes: Axes, shares: Any) -> None:
    for row, column in np.ndindex(*shares.shape):
        share = shares[row, column]
        if share >= 0.005:
            look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8 if share < 0.995 else 7.5}
            axes.text(column + 0.5, row + 0.5, f"{100 * share:.0f}", color=PAPER if share > 0.35 else INK, **look)
