"""The figure of quality against size: what is in it, that no name covers anything, what it refuses."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bitdial.errors import BitdialError
from bitdial.evaluation.codec_plots import rate_distortion
from bitdial.evaluation.plot_style import render
from bitdial.evaluation.statistics import interval

OTHERS = {
    "JPEG": [(0.094, 21.1), (0.28, 25.9), (0.84, 30.2), (1.95, 35.1)],
    "WebP": [(0.19, 26.2), (0.46, 29.4), (0.96, 33.6), (1.62, 36.4)],
    "AVIF": [(0.075, 24.5), (0.19, 27.1), (0.6, 31.6), (2.1, 37.4)],
}
OWN = {
    "balanced": [[(0.12, 20.5), (0.13, 20.9), (0.11, 20.6)], [(0.48, 24.5), (0.46, 24.9), (0.5, 24.4)]],
    "plain": [[(0.1, 20.1), (0.11, 20.0)], [(0.45, 24.3), (0.46, 24.0)]],
}
CASES: dict[str, tuple[Any, Any]] = {
    "one point": (OTHERS, {"bitdial": [[(0.21, 23.4)]]}),
    "lambdas and seeds": (OTHERS, OWN),
    "nothing of one's own": (OTHERS, {}),
    "one's own alone": ({}, {"bitdial": [[(0.21, 23.4), (0.22, 23.6)]]}),
    "one lossless codec alone": ({}, {"bitdial": [[(24.0, 99.0)]]}),
    "the same curve twice": ({"JPEG": OTHERS["JPEG"], "JPEG again": OTHERS["JPEG"]}, {"mine": [[OTHERS["JPEG"][-1]]]}),
    "difficult names": (OTHERS, {"$x_{$ " + "W" * 80: [[(0.01, 13.0), (0.011, 13.5)], []], "_a": [[(4.0, 30.0)]]}),
    "more than colours": ({f"kind {i}": [(0.1 + i, 20.0 + i), (1.0 + i, 30 + i)] for i in range(6)}, {}),
}  # fmt: skip


def drawn(*arguments: Any) -> Figure:
    figure = rate_distortion(*arguments)
    assert figure is not None
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("case", CASES)
def test_no_name_covers_a_name_or_a_curve_and_all_are_inside(case: str) -> None:
    figure = drawn(*CASES[case])
    (axes,) = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) == len(CASES[case][0]) + len(CASES[case][1])
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    frame = axes.get_window_extent(renderer)
    for box in boxes:
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1
        for line in axes.lines:
            if line.get_marker() == "o":
                assert not line.get_path().transformed(axes.transData).intersects_bbox(box, filled=False)
    low, high = axes.get_xlim()
    assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 2
    assert axes.get_xscale() == "log"


def test_means_and_intervals_of_seeds_are_drawn() -> None:
    (axes,) = drawn({}, OWN).axes
    line = next(line for line in axes.lines if line.get_marker() == "o" and line.get_color() == "#0072B2")
    expected = [[np.mean(axis) for axis in zip(*seeds, strict=True)] for seeds in OWN["balanced"]]
    assert np.array(line.get_xydata()) == pytest.approx(np.array(expected))
    across, upright = (collection.get_segments() for collection in axes.collections[:2])  # type: ignore[attr-defined]
    rates, decibels = (interval(list(axis)) for axis in zip(*OWN["balanced"][0], strict=True))
    assert [end[0] for end in across[0]] == pytest.approx([rates.low, rates.high])
    assert [end[1] for end in upright[0]] == pytest.approx([decibels.low, decibels.high])
    assert len(drawn(OTHERS, {"bitdial": [[(0.21, 23.4)]]}).axes[0].collections) == 0  # one seed has no interval


def test_names_have_the_colour_of_their_line_and_order_does_not_matter() -> None:
    (axes,) = drawn({"JPEG": OTHERS["JPEG"][::-1], "AVIF": OTHERS["AVIF"]}, {"bitdial": [[(0.5, 30.0)]]}).axes
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    assert [text.get_text() for text in axes.texts] == ["JPEG", "AVIF", "bitdial"]
    assert [to_hex(text.get_color()) for text in axes.texts] == [to_hex(line.get_color()) for line in lines]
    assert len({to_hex(line.get_color()) for line in lines}) == 3
    assert list(lines[0].get_xdata()) == [x for x, _ in OTHERS["JPEG"]]


def test_what_is_not_finite_is_counted() -> None:
    own = {"bitdial": [[(0.2, 23.0), (0.3, math.nan)], [(0.4, math.inf)], [(None, 3.0)]]}
    (axes,) = drawn(OTHERS, own).axes
    assert axes.get_xlabel() == "bits per pixel (3 not finite, not shown)"
    assert axes.texts[-1].get_text() == "bitdial"
    assert rate_distortion({"JPEG": [(0.1, math.nan)]}, {"bitdial": [[]], "other": []}) is None
    assert rate_distortion({}, {}) is None


def test_becomes_a_small_file() -> None:
    image = render({"rd": rate_distortion(OTHERS, OWN)})["rd"].png
    assert image.startswith(b"\x89PNG")
    assert 10_000 < len(image) < 120_000


BAD: dict[str, tuple[Any, Any, str]] = {
    # A tired user.
    "a list": ([(0.1, 20.0)], {}, "others must be a dict of lists of points by name, got"),
    "points without seeds": (OTHERS, {"bitdial": [(0.2, 23.4)]}, "bitdial must be a list of pairs of numbers"),
    "one pair": (OTHERS, {"bitdial": (0.2, 23.4)}, "bitdial must be a list of pairs of numbers, got 0.2"),
    "no list": (OTHERS, {"bitdial": 0.2}, "own must be a dict of lists"),
    "three numbers": ({"JPEG": [(10, 0.1, 20.0)]}, {}, "JPEG must be a list of pairs"),
    "texts": ({"JPEG": [("0.1", "20")]}, {}, "JPEG must be numbers"),
    "no rate": ({"JPEG": [(0.0, 20.0)]}, {}, "JPEG must have rates above 0 bits per pixel"),
    "swapped": ({"JPEG": [(-20.0, 0.1)]}, {}, "rates above 0"),
    "one text": ({"JPEG": "0.1 20"}, {}, "JPEG must be numbers"),
    "nothing": (None, {}, "others must be a dict of lists of points by name, got None"),
    # A hostile one.
    "numbers for names": ({1: [(0.1, 20.0)]}, {}, "by name"),
    "ragged": ({}, {"bitdial": [[(0.1, 20.0), (0.1,)]]}, "bitdial must be numbers"),
    "booleans": ({"JPEG": [(True, False)]}, {}, "JPEG must be numbers"),
    "complex": ({"JPEG": [(1j, 20.0)]}, {}, "JPEG must be numbers"),
    "a set": ({"JPEG": {(0.1, 20.0)}}, {}, "others must be a dict of lists"),
    "a generator": (OTHERS, {"bitdial": (each for each in [])}, "own must be a dict of lists"),
    "objects": ({"JPEG": [(object(), 20.0)]}, {}, "JPEG must be numbers"),
    "huge": ({"JPEG": [(10**400, 20.0)]}, {}, "JPEG must be numbers"),
    "too deep": ({}, {"bitdial": np.ones((1, 1, 1, 2))}, "bitdial must be a list of pairs"),
    "not flat": ({"JPEG": np.ones((3, 4))}, {}, "JPEG must be a list of pairs"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case: str) -> None:
    others, own, says = BAD[case]
    with pytest.raises(BitdialError, match=says) as caught:
        rate_distortion(others, own)
    assert "\n" not in str(caught.value)
