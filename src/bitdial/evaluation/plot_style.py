"""What the plots share: colours that survive colour blindness, quiet axes, labels that keep apart, and their files."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from bitdial.evaluation.results import ArmSummary
from bitdial.files import write_atomically

# Okabe & Ito, "Color Universal Design" (2008), without its yellow, which is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#7F6000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
INK = "#222222"
FAINT = "#8a8a8a"


@dataclass(frozen=True)
class Style:
    """How one arm is drawn, the same in every figure."""

    colour: str
    marker: str
    line: str


def arm_styles(rows: Sequence[ArmSummary]) -> dict[str, Style]:
    """Return a style for each arm: black for the baseline, then a colour and a marker each.

    Kinds differ in the line (solid for CPT and static arms, dotted for ablations, dashed for yardsticks), and an arm's
    style does not depend on its rank, so that two runs of the same arms look alike.
    """
    lines = {"cpt": "-", "static": "-", "matched": "--", "baseline": "--", "ablation": ":"}
    order = sorted(rows, key=lambda row: (list(lines).index(row.kind), row.own_bits, row.name))
    coloured = [row for row in order if row.kind != "baseline"]
    styles = {
        row.name: Style(COLOURS[i % len(COLOURS)], _MARKERS[i % len(_MARKERS)], lines[row.kind])
        for i, row in enumerate(coloured)
    }
    return {row.name: styles.get(row.name, Style(INK, "*", lines[row.kind])) for row in order}


def new_figure(width: float, height: float, dpi: int = 160) -> Figure:
    """Return an empty white figure of `width` x `height` inches, tied to Agg and to no global state."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def render(figures: Mapping[str, Figure | None]) -> dict[str, bytes]:
    """Return the figures as PNG, by name and in the order given; one that had nothing to draw (None) is left out."""
    return {name: _png(figure) for name, figure in figures.items() if figure is not None}


def save_plots(images: Mapping[str, bytes], folder: str | Path) -> list[Path]:
    """Write each image as ``NAME.png`` into `folder` (made when missing) and return the paths."""
    return [write_atomically(Path(folder) / f"{name}.png", image) for name, image in images.items()]


def quiet(axes: Axes, *, title: str, x: str, y: str) -> None:
    """Give `axes` a title, names with units, a light grid, and no box."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold", parse_math=False)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")


def legend_name(name: str) -> str:
    """Return a name that matplotlib shows as it is: no mathematics, and not hidden for a leading underscore."""
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


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
    figure.draw_without_rendering()  # settles the layout, on which every position in pixels depends
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    scale = figure.dpi / 72
    pixels = [tuple(axes.transData.transform(point)) for point in points]
    taken = [Bbox.from_bounds(x - 6 * scale, y - 6 * scale, 12 * scale, 12 * scale) for x, y in pixels]
    taken += [_bar(axes, point, half, scale) for point, half in zip(points, halves, strict=True) if half is not None]
    spots = [axes.transData.transform(place) for place in around]
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


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _free_offset(
    at: tuple[float, float], half: tuple[float, float], taken: Sequence[Bbox], frame: Bbox, scale: float
) -> tuple[float, float]:
    for radius in range(10, 130, 6):
        for angle in (180, 0, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200):
            turn = math.radians(angle)
            dx = math.cos(turn) * (radius * scale + half[0])
            dy = math.sin(turn) * (radius * scale + half[1])
            box = _box(at[0] + dx, at[1] + dy, half)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                return dx, dy
    return 10 * scale + half[0], 0.0  # a figure this full has no free place: a covered name beats a missing one


def _bar(axes: Axes, point: tuple[float, float], half: float, scale: float) -> Bbox:
    x, low = axes.transData.transform((point[0], point[1] - half))
    _, high = axes.transData.transform((point[0], point[1] + half))
    return Bbox.from_extents(x - 3 * scale, low, x + 3 * scale, high)


def _box(x: float, y: float, half: tuple[float, float]) -> Bbox:
    return Bbox.from_bounds(x - half[0] - 2, y - half[1] - 2, 2 * half[0] + 4, 2 * half[1] + 4)
