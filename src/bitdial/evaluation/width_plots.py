"""The figures of many widths: accuracy against the average width, and which layer's width moves it most.

Titles and names are shown as they are: nothing in them is read as mathematics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from bitdial.errors import BitdialError, suggest
from bitdial.evaluation import wording
from bitdial.evaluation.drawing import AXIS, COLOURS, FAINT, INK, RED
from bitdial.evaluation.plot_style import new_figure, quiet
from bitdial.evaluation.sensitivity import MEASURES, LayerSensitivity
from bitdial.numerics import check_bits

BLUE, ORANGE = COLOURS[:2]
_NAME = 36
"""How many characters of a layer's name are shown, unless more are needed to tell names apart."""


def plot_bitwidth_vs_accuracy(
    bitwidths: Sequence[float],
    accuracies: Sequence[float],
    epoch: int | None = None,
    title: str = "Accuracy against average width",
) -> Figure:
    """Draw a point for each configuration, and what happens at each width: mean, standard deviation, and range.

    Configurations whose average widths agree when rounded to .1 bits are taken together for the red line of means, the
    bars of one standard deviation and the range from lowest to highest. The box gives mean and standard deviation of
    all. Where there is one width only, configurations stand side by side instead, in their order, on a mean with its
    band. A configuration whose accuracy is not finite is a cross at the foot and in no mean.

    Args:
        bitwidths: average width of each configuration, in bits, in [1, 32].
        accuracies: accuracy of each, a fraction in [0, 1] or NaN; drawn in per cent.
        epoch: named in the title; None: not.
        title: what stands above, shown as it is; a long one is shortened.

    Returns:
        The figure, tied to Agg and to no global state.

    Raises:
        BitdialError: no configuration, lists of unlike lengths, or a number out of range.
    """
    bits = [check_bits(width, "bitwidths") for width in _numbers(bitwidths, "bitwidths")]
    values = _numbers(accuracies, "accuracies")
    if not bits or len(bits) != len(values):
        raise BitdialError(
            f"bitwidths and accuracies must be equally long, with one of each for every configuration, got {len(bits)} "
            f"and {len(values)}"
        )
    if wrong := [value for value in values if math.isfinite(value) and not 0 <= value <= 1]:
        raise BitdialError(f"accuracies must be fractions in [0, 1], got {wrong[0]!r}; divide percentages by 100")
    if epoch is not None and (isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0):
        raise BitdialError(f"epoch must be a whole number of 0 or more, or None, got {epoch!r}")
    figure = new_figure(5.6, 3.9, dpi=120)  # a small file: one is kept every few epochs
    axes = figure.subplots()
    sound = [(width, 100 * value) for width, value in zip(bits, values, strict=True) if math.isfinite(value)]
    one = len({round(width, 1) for width in bits}) == 1
    (_at_one_width if one else _over_widths)(axes, bits, values)
    x = f"configuration (all at {wording.bits(bits[0])})" if one else "average width of the weights (bits)"
    quiet(axes, title="", x=x, y="accuracy (%)")
    write_title(figure, title, "" if epoch is None else f", epoch {epoch}")
    box = {"boxstyle": "round,pad=0.35", "facecolor": "none", "edgecolor": AXIS, "linewidth": 0.8}
    axes.set_title(_summary(bits, [y for _, y in sound]), loc="left", fontsize=9.5, color=INK, bbox=box, pad=10)
    _limits(axes, [y for _, y in sound])
    ticks: dict[str, Any] = {"steps": [1, 2, 2.5, 5, 10], "min_n_ticks": 1}
    axes.xaxis.set_major_locator(MaxNLocator(min(8, len(bits)) if one else 8, integer=one, **ticks))
    axes.yaxis.set_major_locator(MaxNLocator(6, **ticks))
    look: dict[str, Any] = {"frameon": False, "fontsize": 9.5, "handletextpad": 0.5, "columnspacing": 1.2}
    figure.legend(loc="outside lower center", ncols=5, **look)
    return figure


def plot_layer_sensitivity(
    sensitivities: Sequence[LayerSensitivity],
    title: str = "Sensitivity of layers",
    *,
    measure: Literal["accuracy", "loss"] = "accuracy",
) -> Figure:
    """Draw a bar for each layer, in the order given: what it costs to have this layer alone at the low width.

    The figure grows with the number of layers; long names are cut short, as far as they can still be told apart. A
    layer whose loss is no longer a number gets a cross instead of a bar.

    Args:
        sensitivities: what `layer_sensitivity` gave.
        title: what stands above, shown as it is.
        measure: what the bars show: the drop in ``"accuracy"``, in percentage points, or the rise in ``"loss"``.

    Raises:
        BitdialError: nothing to draw, something else than sensitivities, or an unknown measure.
    """
    if measure not in MEASURES:
        hint = suggest(str(measure), MEASURES)
        raise BitdialError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}{hint}")
    sound = isinstance(sensitivities, Sequence) and all(isinstance(each, LayerSensitivity) for each in sensitivities)
    if not sound or not sensitivities:
        raise BitdialError(f"sensitivities must be what layer_sensitivity gave, got {sensitivities!r:.60}")
    rows = np.arange(len(sensitivities))
    values = np.array([100 * s.accuracy_drop if measure == "accuracy" else s.loss_rise for s in sensitivities])
    finite = np.isfinite(values)
    names = _short_names([each.layer for each in sensitivities])
    figure = new_figure(
        6.4 + 0.072 * max(0, *(len(name) - _NAME for name in names)), 1.3 + 0.19 * max(len(rows), 4), dpi=120
    )
    axes = figure.subplots()
    axes.barh(rows[finite], values[finite], height=0.7, color=np.where(values[finite] > 0, BLUE, FAINT))
    if not finite.all():
        edge: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "clip_on": False}
        axes.plot([0.01] * int((~finite).sum()), rows[~finite], "x", color=ORANGE, label="not finite", **edge)
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    if not finite.any():
        axes.set_xlim(0, 1)
    first = sensitivities[0]
    unit = "accuracy lost (points)" if measure == "accuracy" else "loss added"
    quiet(axes, title="", x=f"{unit} by one layer at {first.low:g} bits, all others at {first.high:g}", y="")
    axes.set_yticks(rows, names, fontsize=8, parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=AXIS, linewidth=0.8)
    write_title(figure, title)
    return figure


def _short_names(names: Sequence[str]) -> list[str]:
    """Return the names without the modules that all are in, and short where that leaves them different."""
    parts = [name.split(".") for name in names]
    shared = 0
    while len(names) > 1 and all(len(each) > shared + 1 and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    plain = [".".join(each[shared:]) for each in parts]
    most = _NAME
    while len({shortened(name, most) for name in plain}) < len({*plain}):
        most += 8
    return [shortened(name, most) for name in plain]


def write_title(figure: Figure, title: Any, tail: str = "") -> None:
    """Write a title of a user's in one line as it is; of one that is too long for the figure the middle is cut out."""
    if not isinstance(title, str):
        raise BitdialError(f"title must be a text, got {type(title).__name__}")
    words = " ".join(title.split())
    look: dict[str, Any] = {"ha": "left", "fontsize": 11, "fontweight": "bold", "color": INK, "parse_math": False}
    text = figure.suptitle(words + tail, x=0.02, **look)
    fit_text(text, words, tail, 0.98 * figure.bbox.width)


def fit_text(text: Text, words: str, tail: str, right: float) -> None:
    """Cut the middle out of `words`, as far as needed for them and `tail` to end before a place, in pixels."""
    figure = text.get_figure(root=True)
    assert isinstance(figure, Figure)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    most = min(len(words), 200)
    text.set_text(shortened(words, most) + tail)
    while most > 2 and text.get_window_extent(renderer).x1 > right:
        most = int(0.9 * most)
        text.set_text(shortened(words, most) + tail)


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters: of a longer one the middle is cut out."""
    half = max(most - 1, 2) // 2
    return text if len(text) <= most else f"{text[:half]}\u2026{text[-half:]}"


def _over_widths(axes: Axes, bits: Sequence[float], values: Sequence[float]) -> None:
    """Draw the points, and mean, deviation and range of those of one width (rounded to .1)."""
    x, y = np.asarray(bits), 100 * np.asarray(values)
    _points(axes, x, y)
    sound, bins = np.isfinite(y), np.round(x, 1)
    centres = np.unique(bins[sound])
    groups = [y[sound & (bins == centre)] for centre in centres]
    means, deviations = (np.array([measure(group) for group in groups]) for measure in (np.mean, np.std))
    low, high = [group.min() for group in groups], [group.max() for group in groups]
    dense = len(centres) > 40
    line: dict[str, Any] = {"linewidth": 1.4, "marker": ""} if dense else {"linewidth": 1.8, "marker": "o"}
    axes.plot(centres, means, color=RED, markersize=4, zorder=4, label="mean", **line)
    thick: dict[str, Any] = {"color": RED, "alpha": 0.35, "linewidth": 2 if dense else 4}
    axes.vlines(centres, means - deviations, means + deviations, label="\u00b1 1 std", **thick)
    axes.vlines(centres, low, high, color=FAINT, linewidth=0.6 if dense else 1.0, zorder=2, label="range")


def _at_one_width(axes: Axes, bits: Sequence[float], values: Sequence[float]) -> None:
    """Draw the points side by side, on their mean, deviation and range as lines and a band."""
    x, y = np.arange(1, len(values) + 1), 100 * np.asarray(values)
    _points(axes, x, y)
    sound = y[np.isfinite(y)]
    if len(sound):
        mean, deviation = sound.mean(), sound.std()
        axes.axhline(mean, color=RED, linewidth=1.8, label="mean")
    if len(sound) > 1:
        axes.axhspan(mean - deviation, mean + deviation, color=RED, alpha=0.15, linewidth=0, label="\u00b1 1 std")
        for label, edge in (("range", sound.min()), (None, sound.max())):
            axes.axhline(edge, color=FAINT, linewidth=1.0, linestyle="--", label=label)
    axes.set_xlim(0.5, len(values) + 0.5)


def _points(axes: Axes, x: NDArray[Any], y: NDArray[Any]) -> None:
    sound, many = np.isfinite(y), len(y) > 100
    look: dict[str, Any] = {"alpha": 0.35 if many else 0.75, "markersize": 3.5 if many else 6, "markeredgewidth": 0}
    axes.plot(x[sound], y[sound], "o", color=BLUE, zorder=3, label="configuration", **look)
    if not sound.all():
        foot: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        axes.plot(x[~sound], [0.03] * int((~sound).sum()), "x", color=ORANGE, zorder=5, label="not finite", **foot)


def _limits(axes: Axes, values: Sequence[float]) -> None:
    """Leave room around the values, at least half a point, so that rounding does not look like structure."""
    if not values:
        axes.set_ylim(0, 100)
        return
    low, high = min(values), max(values)
    pad = max(0.1 * (high - low), 0.5)
    axes.set_ylim(max(low - pad, -1.0), min(high + pad, 101.0))


def _summary(bits: Sequence[float], values: Sequence[float]) -> str:
    width = wording.bits(bits[0]) if min(bits) == max(bits) else f"{np.mean(bits):.2f} \u00b1 {np.std(bits):.2f} bits"
    if not values:
        return f"no finite accuracy at {width}"
    if len(bits) == 1:
        return f"{values[0]:.2f}% at {wording.bits(bits[0])}, one configuration"
    over = f"{len(values)}" if len(values) == len(bits) else f"the {len(values)} finite of {len(bits)}"
    return f"{np.mean(values):.2f} \u00b1 {np.std(values):.2f} % at {width} (mean \u00b1 std of {over})"


def _numbers(values: Any, name: str) -> list[float]:
    values = values.tolist() if isinstance(values, (np.ndarray, Tensor)) else values
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise BitdialError(f"{name} must be a list of numbers, got {type(values).__name__}; pass list({name})")
    if wrong := [value for value in values if isinstance(value, bool) or not isinstance(value, Real)]:
        raise BitdialError(f"{name} must be numbers, got {wrong[0]!r:.40} among them")
    return [float(value) for value in values]
