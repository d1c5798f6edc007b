"""The figure of a training with two losses: both over the steps, and how they were balanced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from bitdial.errors import BitdialError
from bitdial.evaluation.codec_plots import Pairs, table
from bitdial.evaluation.curves import running_mean
from bitdial.evaluation.drawing import COLOURS, FAINT, INK, RED
from bitdial.evaluation.plot_style import new_figure, quiet
from bitdial.evaluation.svg import tell
from bitdial.evaluation.width_plots import write_title

BALANCE_CAPTION = (
    "The two losses over the steps; where they are balanced, also the logits w and the shares p of both, and gamma, "
    "which pulls w back to 0. Strong lines are means over neighbouring steps."
)
_TASKS = {"distortion": COLOURS[0], "rate": COLOURS[1]}
_DISTORTIONS = {"psnr": "PSNR (dB)", "mse": "\u03bb\u00b7255\u00b2\u00b7MSE"}
_MOST = 2000
"""About how many steps are drawn; of more, every so many."""


def balance_curves(
    steps: Sequence[int],
    distortion: Sequence[float],
    rate: Sequence[float],
    *,
    w: Pairs | None = None,
    p: Pairs | None = None,
    gamma: Sequence[float] | Pairs | None = None,
    warmup_steps: int = 0,
    measure: Literal["psnr", "mse"] = "mse",
    title: str = "Losses and their balance",
) -> Figure | None:
    """Draw both losses over the steps, and how they were balanced; None without steps.

    What is not finite, or None, is a gap, in the losses with a cross. Losses are drawn on a logarithmic axis where they
    go over more than a factor of 20.

    Args:
        steps: rising numbers of the steps that were logged; all that follows has a value for each.
        distortion: what `measure` says.
        rate: bits per pixel.
        w: the logits of the weights of distortion and rate; None: the run did not balance them.
        p: the shares of the two gradients.
        gamma: the decay of w, one or one for each task.
        warmup_steps: where balancing begins; marked if it lies among the steps.
        measure: "psnr" in dB, or "mse" for the loss lambda * 255**2 * MSE.
        title: what stands above.

    Raises:
        BitdialError: lists of other lengths than `steps`, steps that do not rise, or something else than numbers.
    """
    if measure not in _DISTORTIONS:
        raise BitdialError(f"measure must be psnr or mse, got {measure!r}")
    if not isinstance(warmup_steps, int):
        raise BitdialError(f"warmup_steps must be a whole number, got {warmup_steps!r}")
    x = table("steps", steps)[:, 0]
    if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
        raise BitdialError("steps must be numbers that rise; sort them, and leave out those that repeat")
    given: dict[str, Any] = {"distortion": distortion, "rate": rate, "w": w, "p": p, "gamma": gamma}
    panels = {
        name: table(name, values, 2 if name in "wp" else None) for name, values in given.items() if values is not None
    }
    if wrong := [f"{name} has {len(values)}" for name, values in panels.items() if len(values) != len(x)]:
        raise BitdialError(f"all lists must have a value for each of the {len(x)} steps, but {', '.join(wrong)}")
    if not len(x):
        return None
    panels = {name: values for name, values in panels.items() if name in _TASKS or np.isfinite(values).any()}
    labels = {"distortion": _DISTORTIONS[measure], "rate": "bits per pixel", "w": "logits w", "p": "shares p"}
    figure = new_figure(5.8, 0.8 + 1.2 * len(panels))
    grid = list(figure.subplots(len(panels), 1, sharex=True))
    stride = -(-len(x) // _MOST)
    thin = x[::stride]
    begin = int(np.searchsorted(thin, warmup_steps)) if x[0] < warmup_steps <= x[-1] else 0
    for axes, (name, values) in zip(grid, panels.items(), strict=True):
        quiet(axes, title="", x="step" if axes is grid[-1] else "", y=labels.get(name, name))
        colours = [*_TASKS.values()] if values.shape[1] == 2 else [_TASKS.get(name, INK)]
        for column, colour in zip(values[::stride].T, colours, strict=True):
            width = 1.6 if axes.lines else 2.2  # so that both are seen where they are equal
            _curve(axes, thin, column, colour, begin, noisy=name not in ("w", "gamma"), width=width)
        if name in _TASKS:
            _crosses(axes, x[~np.isfinite(values[:, 0])])
        _value_axis(axes, name, values[np.isfinite(values)])
        if begin:
            axes.axvline(warmup_steps, color=FAINT, lw=1, ls="--", label="end of the warm-up")
    if len(x) > 1:
        grid[0].set_xlim(x[0], x[-1])
    grid[0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    write_title(figure, title)
    _key(figure, grid)
    figure.align_ylabels()
    return figure


def _value_axis(axes: Axes, name: str, sound: NDArray[Any]) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2))
    if not len(sound):
        axes.set_yticks([])
    elif name in _TASKS and 0 < 20 * sound.min() < sound.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if sound.max() < 1000 * sound.min() else (1.0,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif name == "p":
        axes.set_ylim(min(1.05 * sound.min(), -0.05), max(1.05 * sound.max(), 1.05))
    elif name == "gamma":
        axes.set_ylim(0, 1.15 * sound.max() or 1)
    elif name == "w":
        axes.set_ylim(min(1.15 * sound.min(), -0.1), max(1.15 * sound.max(), 0.1))


def _curve(axes: Axes, x: NDArray[Any], y: NDArray[Any], colour: str, begin: int, *, noisy: bool, width: float) -> None:
    """Draw values and, where they are noisy and many, their running mean before and after step number `begin`."""
    y = np.where(np.isfinite(y), y, np.nan)
    span = len(x) // 40
    smooth = noisy and span > 2
    look: dict[str, Any] = {"lw": 0.7, "alpha": 0.4} if smooth else {"lw": width, "marker": "" if span > 2 else "o"}
    (line,) = axes.plot(x, y, color=colour, ms=3, **look)
    if smooth:
        mean = np.concatenate([running_mean(part, span) for part in np.split(y, [begin]) if len(part)])
        (line,) = axes.plot(x, mean, color=colour, lw=width)
    tell(line, next((name for name, one in _TASKS.items() if one == colour), ""))


def _crosses(axes: Axes, x: NDArray[Any]) -> None:
    foot: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "ms": 5, "zorder": 5}
    if len(x):
        axes.plot(x := x[:: -(-len(x) // 200)], np.full(len(x), 0.06), "x", color=RED, label="not finite", **foot)


def _key(figure: Figure, grid: Sequence[Axes]) -> None:
    """Say below all what colours and marks mean, each once."""
    for name, colour in _TASKS.items() if len(grid) > 2 else ():
        grid[0].plot([], [], color=colour, lw=1.8, label=name)
    found = {name: handle for axes in grid for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if found:
        look: dict[str, Any] = {"frameon": False, "fontsize": 9, "handlelength": 1.4, "columnspacing": 1.2}
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, **look)
