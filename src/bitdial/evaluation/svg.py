"""A figure as SVG inside a page: in the page's own colours and font, with its values for the page's script.

What a reader meets when pointing at a figure is found here: the points of lines, bars and the cells of maps, each with
the numbers that it stands for.
"""

from __future__ import annotations

import io
import json
import re
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import QuadMesh
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator

from bitdial.evaluation.drawing import PROPERTIES

_MOST = 240
"""Of so many points of a line, at most, the numbers are in the page."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLE = re.compile(r"(?:font-family|stroke-linejoin|stroke-linecap): [^;]*;? ?")
_LOCK = threading.Lock()  # settings of matplotlib are the process's

Target: TypeAlias = list[Any]
"""Left, top, right and bottom in points, and what stands there: a text, or x and y."""
_told: WeakKeyDictionary[Artist, tuple[str, Sequence[str] | None]] = WeakKeyDictionary()


def tell(artist: Artist, name: str, texts: Sequence[str] | None = None) -> None:
    """Say what the points of a line, cells of a map or bars are called, where it is not the label and coordinates.

    Args:
        artist: a line, a map of cells, or the first of some bars.
        name: of all of it; "" where the texts say all.
        texts: one for each point (of a map: row by row); None: its coordinates; (): nothing is told of it.
    """
    _told[artist] = name, texts


def inline_svg(figure: Figure, name: str) -> tuple[str, str]:
    """Return a figure, already drawn once, as an ``<svg>`` element, and what a reader finds in it as JSON.

    Colours of this module become custom properties of the page (``var(--ink)``), fonts are the page's. Neither names an
    address, and all text is escaped.

    Args:
        figure: laid out, and without an engine that would do it again.
        name: tells the figures of a page apart.
    """
    buffer = io.StringIO()
    values = json.dumps(list(_series(figure)), separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
    figure.patch.set_visible(False)
    with _LOCK, matplotlib.rc_context({"svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(buffer)  # type: ignore[no-untyped-call]
    figure.patch.set_visible(True)
    FigureCanvasAgg(figure)
    root = ElementTree.fromstring(_NOT_XML.sub("\ufffd", buffer.getvalue()).encode())
    _tidy(root, f"f{zlib.crc32(name.encode()):08x}-")
    width, height = 72 * figure.get_size_inches()
    root.attrib = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "style": f"--width: {width:g}"}
    return ElementTree.tostring(root, encoding="unicode"), values


def _tidy(root: ElementTree.Element, prefix: str) -> None:
    """Leave what is drawn: no name spaces or metadata, short numbers, the page's colours, names that are the page's."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("metadata", "style")):
                parent.remove(child)
    referred = [e for e in root.iter() if "id" in e.attrib and e.tag.rpartition("}")[2] != "g"]
    names = {element.attrib["id"]: f"{prefix}{number}" for number, element in enumerate(referred)}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        kept = {}
        for key, value in element.attrib.items():
            short = key.rpartition("}")[2]
            if short == "id" and element.tag == "g":
                continue
            if short in ("id", "href"):
                value = names[value] if short == "id" else f"#{names[value[1:]]}"
            elif short == "clip-path":
                value = f"url(#{names[value[5:-1]]})"
            elif short == "style":
                value = re.sub(r"#[0-9a-f]{6}", lambda found: PROPERTIES.get(found[0], found[0]), _STYLE.sub("", value))
            elif short in ("d", "x", "y", "width", "height", "points", "transform"):
                value = re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
            kept[short] = value
        if element.tag == "text" and "fill" not in kept.get("style", ""):
            kept["fill"] = "var(--ink)"
        element.attrib = kept
        element.tail = None
        if element.tag not in ("text", "tspan"):
            element.text = None


def _series(figure: Figure) -> Iterator[dict[str, Any]]:
    height = 72 * figure.get_size_inches()[1]
    scale = 72 / figure.dpi
    for axes in figure.axes:
        if not axes.axison:
            continue
        foot = next((each for each in axes.get_shared_x_axes().get_siblings(axes) if each.get_xlabel()), axes)
        names = {"x": foot.get_xlabel(), "y": axes.get_ylabel()}
        frame = axes.get_window_extent()
        for name, points, texts in _found(axes):
            if not len(points):
                continue
            boxes = np.asarray(points, dtype=float)
            corners = axes.transData.transform(boxes[:, :4].reshape(-1, 2)).reshape(-1, 4)
            inside = (corners[:, 0] <= frame.x1 + 1) & (corners[:, 2] >= frame.x0 - 1)
            inside &= (corners[:, 1] <= frame.y1 + 1) & (corners[:, 3] >= frame.y0 - 1)
            corners = np.round(scale * corners, 1)
            stride = -(-int(inside.sum()) // _MOST) if isinstance(texts, tuple) else 1
            at: list[Target] = [
                [float(box[0]), round(height - box[3], 1), float(box[2]), round(height - box[1], 1), *_said(texts, row)]
                for row, box in zip(np.flatnonzero(inside)[::stride].tolist(), corners[inside][::stride], strict=True)
            ]
            if at:
                yield {"name": name, **names, "at": at}


def _said(texts: Any, row: int) -> tuple[str, ...]:
    return (texts[0](row), texts[1](row)) if isinstance(texts, tuple) else (texts[row],)


def _found(axes: Axes) -> Iterator[tuple[str, Any, Any]]:
    """Name, boxes ``[N, 4]`` in data coordinates, and texts, or functions of the number for x and for y."""
    for line in axes.lines:
        name, texts = _told.get(line, (str(line.get_label()), None))
        silent = name.startswith("_") if line not in _told else texts == ()
        if silent or line.get_transform() != axes.transData:
            continue
        x, y = (np.asarray(values, dtype=float) for values in line.get_data())
        sound = np.flatnonzero(np.isfinite(x) & np.isfinite(y)).tolist()
        points = np.column_stack([x, y, x, y])[sound]
        yield name.strip(), points, [texts[i] for i in sound] if texts else _coordinates(axes, points)
    for bars in axes.containers:
        if isinstance(bars, BarContainer) and all(isinstance(bar, Rectangle) for bar in bars):
            boxes = np.array([bar.get_bbox().extents for bar in bars]).reshape(-1, 4)
            ends = np.asarray(bars.datavalues, dtype=float)
            middle = (boxes[:, :2] + boxes[:, 2:]) / 2
            values = np.column_stack([middle[:, 0], ends] if bars.orientation == "vertical" else [ends, middle[:, 1]])
            name, texts = _told.get(bars[0], (str(bars.get_label()), None)) if len(bars) else ("", None)
            yield "" if name.startswith("_") else name, boxes, texts or _coordinates(axes, values)
    for mesh in axes.collections:
        if isinstance(mesh, QuadMesh) and mesh in _told:
            corners = np.asarray(mesh.get_coordinates())
            boxes = np.concatenate([corners[:-1, :-1], corners[1:, 1:]], axis=2).reshape(-1, 4)
            yield _told[mesh][0], boxes, _told[mesh][1] or [""] * len(boxes)


def _coordinates(axes: Axes, points: Any) -> Any:
    return _of(axes.xaxis, points[:, 0]), _of(axes.yaxis, points[:, 1])


def _of(axis: Axis, values: Any) -> Any:
    """Return what a place is called by its number: as the axis calls it where its ticks are given, else a number."""
    names = {}
    if isinstance(axis.get_major_locator(), FixedLocator):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        names = dict(zip(np.asarray(axis.get_majorticklocs()).tolist(), labels, strict=False))
    return lambda row: names.get(float(values[row])) or f"{float(values[row]):.5g}"
