"""The figure of training itself: the loss, and the bits that it was trained at, over the steps."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bitdial.evaluation.plot_style import COLOURS, new_figure, quiet
from bitdial.evaluation.results import History

BLUE, ORANGE = COLOURS[:2]
FEW_CYCLES = 5
"""How many cycles the close-up shows."""
MANY_CYCLES = 60
"""From here on a whole run is too dense for single cycles: boundaries go, and bits are drawn as a band."""


def training_curves(history: History, name: str) -> Figure | None:
    """Draw loss and bits over steps, whole and, where bits cycle, close up with the boundaries; None without a history.

    A loss that is not finite leaves a gap and a cross. The title says whose history it is: `name`.
    """
    if not history.step:
        return None
    edges = [edge for edge in history.cycle_boundaries if edge <= history.step[-1]]
    close = len(edges) > FEW_CYCLES + 1
    figure = new_figure(10.5, 5.4)
    grid = figure.subplots(2, 2 if close else 1, sharex="col", squeeze=False, width_ratios=[2, 1] if close else None)
    start, stop = history.step[0], history.step[-1] + 1
    dense = len(edges) > MANY_CYCLES
    _column(grid[:, 0], history, [] if dense else edges, band=dense)
    quiet(grid[0, 0], title=f"{name}: the whole run", x="", y="training loss (nats)")
    quiet(grid[1, 0], title="", x="step", y="width (bits)")
    grid[0, 0].set_xlim(start, stop)
    if close:
        middle = len(edges) // 2
        window = edges[middle : middle + FEW_CYCLES + 1]
        _column(grid[:, 1], history, window, band=False, close=True)
        quiet(grid[0, 1], title=f"{len(window) - 1} cycles, close up", x="", y="")
        quiet(grid[1, 1], title="", x="step", y="")
        grid[0, 1].set_xlim(window[0], window[-1])
        grid[0, 1].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        grid[1, 1].set_ylim(0, max(history.bits) * 1.2)
    finite = [loss for loss in history.loss if math.isfinite(loss)]
    if finite:  # one spike must not press the rest of the curve flat
        grid[0, 0].set_ylim(max(0.0, min(finite) * 0.9), max(float(np.quantile(finite, 0.995)) * 1.1, 1e-6))
    grid[1, 0].set_ylim(0, max(history.bits) * (1.4 if dense else 1.2))
    for axes in grid.flat:
        axes.grid(visible=False, axis="x")  # vertical lines are the cycle boundaries, and nothing else
    grid[0, 0].legend(loc="upper right", frameon=False, fontsize=9)
    figure.align_ylabels()
    return figure


def _column(axes: NDArray[np.object_], history: History, edges: list[int], *, band: bool, close: bool = False) -> None:
    """Draw the loss above and the bits below, whole or, close up, between the first and the last of `edges`."""
    top: Axes = axes[0]
    bottom: Axes = axes[1]
    step, loss, bits = np.array(history.step), np.array(history.loss), np.array(history.bits)
    if close:
        shown = (edges[0] <= step) & (step <= edges[-1])
        step, loss, bits = step[shown], loss[shown], bits[shown]
    broken = ~np.isfinite(loss)
    top.plot(step, np.where(broken, np.nan, loss), color=BLUE, lw=1.3 if close else 0.8, alpha=1.0 if close else 0.4)
    if not close:
        span = max(3, len(step) // 40)
        top.plot(step, running_mean(loss, span), color=BLUE, lw=1.8, label=f"mean over {span} logged steps")
    if broken.any():
        across = top.get_xaxis_transform()
        top.plot(step[broken], [0.97] * int(broken.sum()), "x", color=ORANGE, transform=across, label="not finite")
    if band:
        _bits_band(bottom, step, bits, history.cycle_boundaries)
    else:
        bottom.plot(step, bits, color=ORANGE, lw=1.4, drawstyle="steps-post")
    for panel in (top, bottom):
        for edge in edges:
            label = "start of a cycle" if panel is top and edge == edges[0] else None
            panel.axvline(edge, color="#9a9a9a", lw=0.7, ls=(0, (2, 2)), zorder=0, label=label)


def _bits_band(axes: Axes, step: NDArray[np.int_], bits: NDArray[np.float64], edges: list[int]) -> None:
    cycle = np.searchsorted(edges, step, side="right")
    parts = [bits[cycle == number] for number in np.unique(cycle)]
    starts = [step[cycle == number][0] for number in np.unique(cycle)]
    low, high = [part.min() for part in parts], [part.max() for part in parts]
    axes.fill_between(starts, low, high, step="post", color=ORANGE, alpha=0.25, lw=0, label="lowest to highest")
    axes.plot(starts, [part.mean() for part in parts], color=ORANGE, lw=1.4, label="mean of the cycle")
    axes.legend(loc="upper right", frameon=False, fontsize=9)


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
