"""The figure of an image codec beside others: quality against size.

It takes plain numbers. Names are shown as they are: nothing in them is read as mathematics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from bitdial.errors import BitdialError
from bitdial.evaluation.drawing import COLOURS, INK
from bitdial.evaluation.plot_style import new_figure, place_labels, quiet
from bitdial.evaluation.results import Interval
from bitdial.evaluation.statistics import interval
from bitdial.evaluation.svg import tell
from bitdial.evaluation.width_plots import shortened
from bitdial.evaluation.wording import bars_note, half_shown, spread

Pairs = Sequence[tuple[float, float]]
Means = list[tuple[Interval, Interval]]

_OWN = (COLOURS[0], INK, COLOURS[3], COLOURS[5])
_OTHERS = (COLOURS[1], COLOURS[2], COLOURS[7], COLOURS[4])


def rate_distortion_caption(seeds: int) -> str:
    """Return what `rate_distortion` shows, of one's own codec with so many seeds."""
    note = bars_note([seeds])
    return (
        "Quality against size, means over the same pictures: bits per pixel are all bits over all pixels, PSNR is the "
        "mean of each picture's. Thin lines are other kinds of files at several qualities; one's own codec has a point "
        f"for each lambda, joined by a thick line{f'; {note}' if note else ''}. Up and to the left is better."
    )


def rate_distortion(others: Mapping[str, Pairs], own: Mapping[str, Sequence[Pairs]]) -> Figure | None:
    """Draw PSNR against bits per pixel, on a logarithmic axis; None where nothing is finite.

    Args:
        others: by kind of file, bits per pixel and PSNR at each quality.
        own: by name, for each lambda the bits per pixel and PSNR of each seed: drawn is their mean, with the intervals
            of both numbers, or with a dot for each of two seeds. What is not finite is left out, and counted below
            the axis.

    Raises:
        BitdialError: a rate that is not above 0, or something else than pairs of numbers.
    """
    given = [(name, _OTHERS, [[pair] for pair in pairs]) for name, pairs in _named("others", others)]
    given += [(name, _OWN, [*lambdas]) for name, lambdas in _named("own", own)]
    lines, left_out, pairs_of = list[tuple[str, str, bool, Means]](), 0, dict[str, list[NDArray[Any]]]()
    for name, palette, points in given:
        pairs = [table(name, seeds, 2) for seeds in points]
        sound = [seeds[np.isfinite(seeds).all(1)] for seeds in pairs]
        left_out += sum(map(len, pairs)) - sum(map(len, sound))
        if any((seeds[:, 0] <= 0).any() for seeds in sound):
            raise BitdialError(f"{name} must have rates above 0 bits per pixel, got {_short(points)}")
        means = [(interval(seeds[:, 0].tolist()), interval(seeds[:, 1].tolist())) for seeds in sound if len(seeds)]
        colour = palette[sum(line[2] == (palette is _OWN) for line in lines) % len(palette)]
        pairs_of[colour] = [seeds for seeds in sound if len(seeds) == 2]
        if means:
            lines.append((name, colour, palette is _OWN, sorted(means, key=lambda mean: mean[0].mean)))
    if not lines:
        return None
    figure = new_figure(5.8, 4.2)
    axes = figure.subplots()
    note = f" ({left_out} not finite, not shown)" if left_out else ""
    quiet(axes, title="Quality against size", x=f"bits per pixel{note}", y="PSNR (dB)")
    axes.set_xscale("log")
    for name, colour, mine, means in lines:
        _line(axes, name, means, colour, mine=mine)
        for seeds in pairs_of[colour]:
            (dots,) = axes.plot(*seeds.T, "o-", ms=3, mew=0, lw=0.8, color=colour, zorder=4)
            tell(dots, "", ())
    _rate_axis(axes, [x.mean for *_, means in lines for x, _ in means])
    names, colours = [shortened(name, 30) for name, *_ in lines], [colour for _, colour, *_ in lines]
    ends = [(means[-1][0].mean, means[-1][1].mean) for *_, means in lines]
    along = [place for *_, means in lines for place in _between(means)]
    place_labels(axes, ends, names, [half_shown(means[-1][1]) for *_, means in lines], colours, along)
    for text, colour in zip(axes.texts, colours, strict=True):
        text.set_color(colour)
    return figure


def _line(axes: Axes, name: str, means: Means, colour: str, *, mine: bool) -> None:
    look: dict[str, Any] = {"lw": 2.2, "ms": 6, "zorder": 4} if mine else {"lw": 1.1, "ms": 2.5, "zorder": 3}
    x, y = [x.mean for x, _ in means], [y.mean for _, y in means]
    (line,) = axes.plot(x, y, marker="o", color=colour, **look)
    tell(line, name, [f"{_told(a, 'bits per pixel', 3)}\n{_told(b, 'dB', 2)}" for a, b in means])
    bars: dict[str, Any] = {"fmt": "none", "ecolor": colour, "elinewidth": 1, "capsize": 2, "zorder": 4}
    for a, b in (pair for pair in means if pair[0].n > 2):
        axes.errorbar([a.mean], [b.mean], yerr=b.half, xerr=a.half, **bars)


def _told(value: Interval, unit: str, digits: int) -> str:
    """A mean as a reader meets it who points at it: "0.245 bits per pixel (0.240 to 0.250)"."""
    return f"{value.mean:.{digits}f} {unit}{spread(value, lambda each: f'{each:.{digits}f}')}"


def _between(means: Means) -> list[tuple[float, float]]:
    """Places along a curve and its intervals, so near that no name fits between them."""
    x, y = [x.mean for x, _ in means], [y.mean for _, y in means]
    ways = [*zip(zip(x, y, strict=True), zip(x[1:], y[1:], strict=True), strict=False)]
    for a, b in means:
        ways += [((max(a.mean - side * (half_shown(a) or 0), 1e-9), b.mean), (a.mean, b.mean)) for side in (-1, 1)]
        ways += [((a.mean, b.mean - side * (half_shown(b) or 0)), (a.mean, b.mean)) for side in (-1, 1)]
    return [
        (start[0] * (end[0] / start[0]) ** part, start[1] + part * (end[1] - start[1]))
        for start, end in ways
        for part in np.linspace(0, 1, 10 if start != end else 1).tolist()
    ]


def _rate_axis(axes: Axes, rates: Sequence[float]) -> None:
    """Leave room for names at both ends, and say rates in plain numbers."""
    low, high = min(rates), max(rates)
    stretch = max((high / low) ** 0.15, 1.5)
    axes.set_xlim(low / stretch, high * stretch)
    axes.margins(y=0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _named(name: str, values: Any) -> list[tuple[str, Any]]:
    sound = isinstance(values, Mapping) and all(isinstance(key, str) for key in values)
    if not sound or not all(isinstance(each, Sequence | np.ndarray) for each in values.values()):
        raise BitdialError(f"{name} must be a dict of lists of points by name, got {_short(values)}")
    return list(values.items())


def table(name: str, values: Any, columns: int | None = None) -> NDArray[Any]:
    """Numbers as float64 ``[N, columns]``, with NaN for None; columns: any of 1 and 2 where it is None."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iufO":
            raise TypeError(f"values of {array.dtype}")
        array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BitdialError(f"{name} must be numbers, got {_short(values)} ({error})") from error
    if not array.size:
        return array.reshape(0, columns or 1)
    array = array[:, None] if array.ndim == 1 and columns is None else array
    if array.ndim != 2 or array.shape[1] not in ((1, 2) if columns is None else (columns,)):
        raise BitdialError(f"{name} must be a list of {'pairs of ' if columns else ''}numbers, got {_short(values)}")
    return array


def _short(values: Any) -> str:
    return f"{' '.join(repr(values).split()):.60}"
