"""Curves of a run as SVG, in the page's colours: drawn in a millisecond, so that watching costs a run nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 190
_RIGHT, _TOP, _BOTTOM = 10, 12, 26
_LETTER = 6.4
"""Width of a digit of a label, at most."""
COLOURS = 8
MOST_NAMED = 10
"""Lines that are named below a drawing; the names of more are folded."""
MOST = 300
"""Points of a line; of more, the mean of each stretch is drawn."""
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """One drawing.

    Attributes:
        title: what is drawn.
        lines: name -> points, in order.
        share: whether values are shares, shown as per cent.
        steps: whether a value holds until the next one.
    """

    title: str
    lines: Mapping[str, Points]
    share: bool = False
    steps: bool = False


def draw(chart: Chart, x_label: str = "step") -> Markup:
    """Return the chart as a ``<figure>``; every text in it is text, never markup."""
    lines = {name: thinned(points) for name, points in chart.lines.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return Markup("")
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    x_ticks, y_ticks = ticks(0 if min(xs) >= 0 else min(xs), max(xs), 4), ticks(min(ys), max(ys), 4)
    left, right = x_ticks[0], max(x_ticks[-1], max(xs))
    low, high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    begins = max(44, 10 + _LETTER * max(len(_told(y, chart.share)) for y in y_ticks))
    ends = WIDTH - max(_RIGHT, _LETTER / 2 * len(_told(x_ticks[-1], False)))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / ((right - left) or 1)
        up = (y - low) / ((high - low) or 1)
        return (
            round(begins + across * (ends - begins), 1),
            round(HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), 1),
        )

    parts = []
    for y in y_ticks:
        _, at = place(left, y)
        parts.append(f'<line class="grid" x1="{begins:.1f}" x2="{ends:.1f}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{begins - 6:.1f}" y="{at + 3.5}" text-anchor="end">{_told(y, chart.share)}</text>')
    for x in x_ticks:
        at, _ = place(x, low)
        parts.append(f'<text x="{at}" y="{HEIGHT - 10}" text-anchor="middle">{_told(x, False)}</text>')
    for number, points in enumerate(lines.values()):
        path = _path([place(x, y) for x, y in points], chart.steps)
        parts.append(f'<path class="{_look(number)}" d="{path}"/>')
        if len(points) == 1:
            x, y = place(*points[0])
            parts.append(f'<circle class="{_look(number)}" cx="{x}" cy="{y}" r="3"/>')
    last = "; ".join(f"{name}: {_told(points[-1][1], chart.share)}" for name, points in lines.items())
    keys = Markup("").join(
        Markup('<li><svg class="key" viewBox="0 0 22 4"><path class="{}" d="M0 2H22"/></svg>{} <b>{}</b></li>').format(
            _look(number), name, _told(points[-1][1], chart.share)
        )
        for number, (name, points) in enumerate(lines.items())
    )
    named = Markup("<ul>{}</ul>").format(keys)
    if len(lines) > MOST_NAMED:
        named = Markup("<details><summary>{} lines</summary>{}</details>").format(len(lines), named)
    return Markup(
        '<figure class="chart"><figcaption>{title} <small>by {x}</small></figcaption>'
        '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title} by {x}; last {last}">{parts}</svg>'
        "{named}</figure>"
    ).format(
        title=chart.title, width=WIDTH, height=HEIGHT, x=x_label, last=last, parts=Markup("".join(parts)), named=named
    )


def _look(number: int) -> str:
    """Classes of a line: its colour, and dashes where all colours are taken."""
    return f"c{number % COLOURS} d{number // COLOURS % 4}"


def thinned(points: Points) -> list[tuple[float, float]]:
    """Finite points, at most `MOST`: of more, means of stretches, so that no stretch goes unseen."""
    sound = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = -(-len(sound) // MOST)
    if size < 2:
        return sound
    stretches = [sound[start : start + size] for start in range(0, len(sound), size)]
    return [(each[-1][0], sum(y for _, y in each) / len(each)) for each in stretches]


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about so many."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad if low else 0.0, high + pad
    rough = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(size * magnitude for size in (1, 2, 2.5, 5, 10) if size * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _told(value: float, share: bool) -> str:
    if share:
        return f"{100 * value:.1f}".removesuffix(".0") + "%"
    if abs(value) >= 10_000:
        return f"{value / 1000:.5g}k"
    return f"{value:.4g}"


def _path(points: Sequence[tuple[float, float]], steps: bool) -> str:
    found = f"M{points[0][0]} {points[0][1]}"
    for x, y in points[1:]:
        found += f"H{x}V{y}" if steps else f"L{x} {y}"
    return str(escape(found))
