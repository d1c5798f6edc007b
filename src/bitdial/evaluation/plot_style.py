"""What the plots share: styles of arms, quiet axes, labels that keep apart, and their files."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from bitdial.evaluation.drawing import AXIS, COLOURS, FAINT, GRID, INK, PAPER, Drawing
from bitdial.evaluation.results import ArmSummary, Interval
from bitdial.evaluation.svg import inline_svg, tell
from bitdial.evaluation.wording import half_shown
from bitdial.files import write_atomically

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


@dataclass(frozen=True)
class Style:
    """How one arm is drawn, the same in every figure."""

    colour: str
    marker: str
    line: str
    stands_out: bool
    """Whether a reader is to see it first; the others are grey, thin, and told apart by their markers."""


def arm_styles(rows: Sequence[ArmSummary], recommended: str) -> dict[str, Style]:
    """Return a style for each arm: a colour for those that matter, which are few, and grey with a marker for the rest.

    What is recommended, the cyclic arm, its matched cost and the baseline stand out. Kinds differ in the line (solid
    for CPT and static arms, dotted for ablations, dashed for yardsticks).
    """
    lines = {"cpt": "-", "static": "-", "matched": "--", "baseline": "--", "ablation": ":"}
    colours = {"cpt": COLOURS[0], "matched": COLOURS[2], "baseline": INK}
    order = sorted(rows, key=lambda row: (list(lines).index(row.kind), row.own_bits, row.name))
    styles = {}
    for number, row in enumerate(order):
        colour = colours.get(row.kind, COLOURS[1] if row.name == recommended else FAINT)
        styles[row.name] = Style(colour, _MARKERS[number % len(_MARKERS)], lines[row.kind], colour != FAINT)
    return styles


def new_figure(width: float, height: float, dpi: int = 160) -> Figure:
    """Return an empty white figure of `width` x `height` inches, tied to Agg and to no global state."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def render(figures: Mapping[str, Figure | None]) -> dict[str, Drawing]:
    """Return the figures as PNG and SVG, by name and in the order given; one without anything to draw is left out."""
    found = {}
    for name, figure in figures.items():
        if figure is not None:
            settle(figure)
            found[name] = Drawing(as_png(figure), *inline_svg(figure, name))
    return found


def settle(figure: Figure) -> None:
    """Lay a figure out, once and for all files: what is placed by pixels from here on stays where it is."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def as_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    canvas = FigureCanvasAgg(figure)
    canvas.print_png(buffer)  # type: ignore[no-untyped-call]  # savefig would draw it twice
    return buffer.getvalue()


def save_plots(images: Mapping[str, Drawing], folder: str | Path) -> list[Path]:
    """Write each figure as ``NAME.png`` into `folder` (made when missing) and return the paths."""
    return [write_atomically(Path(folder) / f"{name}.png", image.png) for name, image in images.items()]


def shades(colour: str = COLOURS[0], levels: int = 32) -> LinearSegmentedColormap:
    """Return a scale from nearly nothing to a full colour: on any background, as it is the opacity that grows."""
    return LinearSegmentedColormap.from_list("shades", [(*to_rgb(colour), 0.04), (*to_rgb(colour), 1.0)], N=levels)


def quiet(axes: Axes, *, title: str, x: str, y: str) -> None:
    """Give `axes` a title, names with units, a light grid, and no box."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold", parse_math=False)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(AXIS)


def legend_name(name: str) -> str:
    """Return a name that matplotlib shows as it is: no mathematics, and not hidden for a leading underscore."""
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def draw_spread(
    axes: Axes, x: Sequence[float], values: Sequence[Interval], colour: str, *, scale: float = 1.0, **look: Any
) -> None:
    """Draw about each mean what is known of its seeds: a 95% interval as a bar, or a dot for each of two.

    Args:
        axes: to draw on.
        x: where each mean stands.
        values: the means and their intervals.
        colour: of all.
        scale: what values are multiplied with.
        look: what else `Axes.errorbar` takes.
    """
    for two in (False, True):
        kept = [
            (at, each) for at, each in zip(x, values, strict=True) if each.half is not None and (each.n == 2) == two
        ]
        if not kept:
            continue
        places, means = [at for at, _ in kept], [scale * each.mean for _, each in kept]
        halves = [scale * (half_shown(each) or 0.0) for _, each in kept]
        caps = 0 if two else 2.5
        axes.errorbar(places, means, yerr=halves, fmt="none", ecolor=colour, elinewidth=1, capsize=caps, **look)
        if two:
            ends = [mean + side * half for side in (-1, 1) for mean, half in zip(means, halves, strict=True)]
            (dots,) = axes.plot(2 * places, ends, "o", ms=3, mew=0, color=colour, **look)
            tell(dots, "", ())


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    halves: Sequence[float | None],
    colours: Sequence[str],
    around: Sequence[tuple[float, float]] = (),
) -> None:
    """Write a name beside each point so that none covers another name, a point, an interval, or the edge of the axes.

    Each name takes the first free place on rings of growing radius around its point; one that had to move away is tied
    to its point with a thin line. Positions are in data coordinates; the limits of the axes must be final. `halves` are
    the half lengths of the vertical intervals, None where there is none; `colours` are those of the lines; `around` are
    places without a name that are to stay free as well, such as those along a curve.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    settle(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    scale = figure.dpi / 72
    pixels = [tuple(axes.transData.transform(point)) for point in points]
    taken = [Bbox.from_bounds(x - 6 * scale, y - 6 * scale, 12 * scale, 12 * scale) for x, y in pixels]
    taken += [_bar(axes, point, half, scale) for point, half in zip(points, halves, strict=True) if half is not None]
    spots = axes.transData.transform(np.reshape(around, (-1, 2)))
    taken += [_box(x, y, (2 * scale, 2 * scale)) for x, y in spots]
    frame = axes.get_window_extent(renderer)
    for point, (x, y), name, colour in zip(points, pixels, names, colours, strict=True):
        look: dict[str, Any] = {"fontsize": 9, "color": INK, "parse_math": False, "ha": "center", "va": "center"}
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", **look)
        extent = text.get_window_extent(renderer)
        half = extent.width / 2, extent.height / 2
        dx, dy = _free_offset((x, y), half, taken, frame, scale)
        text.set_position((dx / scale, dy / scale))
        taken.append(_box(x + dx, y + dy, half))
        if abs(dx) > half[0] + 14 * scale or abs(dy) > half[1] + 14 * scale:
            end = (x + dx - math.copysign(min(half[0], abs(dx)), dx), y + dy - math.copysign(min(half[1], abs(dy)), dy))
            tail = axes.transData.inverted().transform(end)
            axes.plot([point[0], tail[0]], [point[1], tail[1]], color=colour, linewidth=0.8, zorder=2.5)


def _free_offset(
    at: tuple[float, float], half: tuple[float, float], taken: Sequence[Bbox], frame: Bbox, scale: float
) -> tuple[float, float]:
    corners = np.array([box.extents for box in taken])
    for radius in range(10, 130, 6):
        for angle in (180, 0, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200):
            turn = math.radians(angle)
            dx = math.cos(turn) * (radius * scale + half[0])
            dy = math.sin(turn) * (radius * scale + half[1])
            x0, y0, x1, y1 = _box(at[0] + dx, at[1] + dy, half).extents
            inside = frame.x0 <= x0 and x1 <= frame.x1 and frame.y0 <= y0 and y1 <= frame.y1
            apart = (corners[:, 0] > x1) | (corners[:, 2] < x0) | (corners[:, 1] > y1) | (corners[:, 3] < y0)
            if inside and apart.all():
                return dx, dy
    return 10 * scale + half[0], 0.0  # a figure this full has no free place: a covered name beats a missing one


def _bar(axes: Axes, point: tuple[float, float], half: float, scale: float) -> Bbox:
    x, low = axes.transData.transform((point[0], point[1] - half))
    _, high = axes.transData.transform((point[0], point[1] + half))
    return Bbox.from_extents(x - 3 * scale, low, x + 3 * scale, high)


def _box(x: float, y: float, half: tuple[float, float]) -> Bbox:
    return Bbox.from_bounds(x - half[0] - 2, y - half[1] - 2, 2 * half[0] + 4, 2 * half[1] + 4)
