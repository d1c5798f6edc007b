"""The figure of two losses in balance: its panels, its marks, runs without balancing and with NaN, what it refuses."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bitdial.errors import BitdialError
from bitdial.evaluation.balance_plots import balance_curves
from bitdial.evaluation.plot_style import render

N = 400
STEPS = np.arange(N) * 10
NOISE = np.random.default_rng(0).random(N)
MSE, BPP = 4000 * np.exp(-STEPS / 900) + 14 + NOISE, 6 * np.exp(-STEPS / 700) + 0.3 + NOISE / 9
W = np.where(STEPS < 1000, 0, -(STEPS - 1000) / 4000)
P = np.where(STEPS < 1000, 1, 0.5 - (STEPS - 1000) / 9000)
BALANCE: dict[str, Any] = {
    "w": np.stack([W, -W], 1),
    "p": np.stack([P, 1 - P], 1),
    "gamma": 0.006 * np.exp(-STEPS / 4000),
}
NAN = [math.nan] * N
CASES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "balanced": ((STEPS, MSE, BPP), {**BALANCE, "warmup_steps": 1000}),
    "plain": ((STEPS, 48 - 10 * np.log10(MSE), BPP), {"measure": "psnr"}),
    "two gammas": ((STEPS, MSE, BPP), {**BALANCE, "gamma": np.stack([W + 2, W + 1], 1)}),
    "NaN among them": ((STEPS, np.where(NOISE > 0.9, math.nan, MSE), BPP), {**BALANCE, "w": [(None, math.nan)] * N}),
    "all NaN": ((STEPS, NAN, NAN), {"gamma": NAN, "warmup_steps": 5}),
    "one step": (([7], [100.0], [1.0]), {"w": [(0, 0)], "p": [(1, 1)], "gamma": [0.003], "warmup_steps": 7}),
    "three steps": (([0, 1, 2], [100.0, 90.0, 95.0], [1.0, 1.0, 1.0]), {"gamma": [0.0] * 3, "warmup_steps": 1}),
    "losses of 0": ((STEPS, NOISE * 0, BPP * 0), {}),
    "many": ((np.arange(50_000), np.resize(MSE, 50_000), np.resize(BPP, 50_000)), {"warmup_steps": 9}),
    "another title": ((STEPS, MSE, BPP), {"title": "$x_{$ " + "W" * 300}),
}  # fmt: skip


def drawn(*arguments: Any, **options: Any) -> Figure:
    figure = balance_curves(*arguments, **options)
    assert figure is not None
    figure.draw_without_rendering()
    return figure


@pytest.fixture(params=CASES)
def figure(request: pytest.FixtureRequest) -> Figure:
    arguments, options = CASES[request.param]
    return drawn(*arguments, **options)


def test_nothing_covers_anything_and_all_is_inside(figure: Figure) -> None:
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    parts: list[Any] = [*figure.legends, figure._suptitle]  # type: ignore[attr-defined]
    for axes in figure.axes:
        parts += [axes.yaxis.label, axes.xaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            inside = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            parts += [tick.label1 for tick in inside if tick.label1.get_visible()]
    boxes = [part.get_window_extent(renderer) for part in parts]
    boxes = [box for box in boxes if box.width * box.height]
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1
    assert render({"balance": figure})["balance"].png.startswith(b"\x89PNG")


def labels(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes]


def test_panels_are_what_was_logged() -> None:
    losses = ["\u03bb\u00b7255\u00b2\u00b7MSE", "bits per pixel"]
    assert labels(drawn(STEPS, MSE, BPP, **BALANCE)) == [*losses, "logits w", "shares p", "gamma"]
    assert labels(drawn(STEPS, MSE, BPP)) == losses
    assert labels(drawn(STEPS, MSE, BPP, w=[(math.nan, None)] * N, gamma=[0.1] * N)) == [*losses, "gamma"]
    assert labels(drawn(STEPS, NAN, NAN, measure="psnr")) == ["PSNR (dB)", "bits per pixel"]


def test_values_are_drawn_where_they_are() -> None:
    figure = drawn([0, 5, 9], [30.0, 20.0, 25.0], [3.0, 2.0, 1.0], w=[(0, 0), (0.1, -0.1), (0.2, -0.2)])
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[0, 30], [5, 20], [9, 25]]  # type: ignore[union-attr]
    assert [line.get_ydata().tolist() for line in figure.axes[2].lines] == [[0, 0.1, 0.2], [0, -0.1, -0.2]]  # type: ignore[union-attr]
    tasks, key = figure.axes[2].lines, figure.legends[0]
    assert [text.get_text() for text in key.get_texts()] == ["distortion", "rate"]
    assert [line.get_color() for line in key.get_lines()] == [line.get_color() for line in tasks]


def test_the_end_of_the_warm_up_is_marked_where_it_lies_among_the_steps() -> None:
    def marks(warmup: int) -> list[float]:
        figure = drawn(STEPS, MSE, BPP, **BALANCE, warmup_steps=warmup)
        found = [line.get_xdata()[0] for axes in figure.axes for line in axes.lines if line.get_linestyle() == "--"]
        assert len(found) in (0, 5)
        return found[:1]

    assert marks(1000) == [1000]
    assert marks(int(STEPS[-1])) == [STEPS[-1]]
    assert marks(0) == marks(int(STEPS[-1]) + 1) == []


def test_means_do_not_reach_over_the_end_of_the_warm_up() -> None:
    shares = np.where(STEPS < 1000, 1.0, 0.25)
    figure = drawn(STEPS, MSE, BPP, p=np.stack([shares, shares], 1), warmup_steps=1000)
    smooth = figure.axes[2].lines[1].get_ydata()
    assert {*np.round(np.asarray(smooth, float), 12).tolist()} == {1.0, 0.25}


def test_losses_over_more_than_a_factor_of_20_are_on_a_logarithmic_axis() -> None:
    scales = [axes.get_yscale() for axes in drawn(STEPS, MSE, np.linspace(1, 19, N), **BALANCE).axes]
    assert scales == ["log", "linear", "linear", "linear", "linear"]
    assert drawn(STEPS, MSE - MSE.min(), BPP).axes[0].get_yscale() == "linear"  # 0 has no logarithm


def test_losses_that_are_not_finite_have_a_cross() -> None:
    losses = [3.0, math.nan, 4.0, math.inf, 5.0, None]
    figure = drawn(range(6), losses, [1.0] * 6)
    (crosses,) = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert list(crosses.get_xdata()) == [1, 3, 5]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not finite"]
    assert not any(line.get_marker() == "x" for line in figure.axes[1].lines)


def test_without_steps_there_is_no_figure() -> None:
    assert balance_curves([], [], [], w=[], gamma=[]) is None


BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    # A tired user.
    "a list too short": (([0, 1], [1.0], [1.0, 1.0]), {}, "a value for each of the 2 steps, but distortion has 1"),
    "p too short": (([0, 1], [1.0, 1.0], [1.0, 1.0]), {"p": [(1, 1)]}, "but p has 1"),
    "one w": (([0, 1], [1.0, 1.0], [1.0, 1.0]), {"w": [0.1, 0.2]}, "w must be a list of pairs of numbers"),
    "another order": (([1, 0], [1.0, 1.0], [1.0, 1.0]), {}, "steps must be numbers that rise"),
    "twice": (([1, 1], [1.0, 1.0], [1.0, 1.0]), {}, "leave out those that repeat"),
    "another measure": (([0], [1.0], [1.0]), {"measure": "dB"}, "measure must be psnr or mse, got 'dB'"),
    "texts": (([0], ["1.0"], [1.0]), {}, "distortion must be numbers"),
    "a number": ((3, 1.0, 1.0), {}, "steps must be a list of numbers, got 3"),
    "no title": (([0], [1.0], [1.0]), {"title": None}, "title must be a text"),
    "a fraction of steps": (([0], [1.0], [1.0]), {"warmup_steps": 0.1}, "warmup_steps must be a whole number, got 0.1"),
    # A hostile one.
    "NaN steps": (([0, math.nan], [1.0, 1.0], [1.0, 1.0]), {}, "steps must be numbers that rise"),
    "infinite steps": (([0, math.inf], [1.0, 1.0], [1.0, 1.0]), {}, "steps must be numbers that rise"),
    "nothing": ((None, None, None), {}, "steps must be a list of numbers, got None"),
    "three gammas": (([0], [1.0], [1.0]), {"gamma": [(1, 2, 3)]}, "gamma must be a list of numbers"),
    "three tasks": (([0], [1.0], [1.0]), {"w": [(1, 2, 3)]}, "w must be a list of pairs"),
    "ragged": (([0, 1], [1.0, 1.0], [1.0, 1.0]), {"p": [(1, 1), (1,)]}, "p must be numbers"),
    "complex": (([0], [1j], [1.0]), {}, "distortion must be numbers"),
    "a dict": (([0], {0: 1.0}, [1.0]), {}, "distortion must be numbers|distortion must be a list"),
    "too large": (([0], [10**400], [1.0]), {}, "distortion must be numbers"),
    "booleans": (([0], [True], [1.0]), {}, "distortion must be numbers"),
    "arrays of arrays": (([0], np.ones((1, 1, 1)), [1.0]), {}, "distortion must be a list of numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case: str) -> None:
    arguments, options, says = BAD[case]
    with pytest.raises(BitdialError, match=says) as caught:
        balance_curves(*arguments, **options)
    assert "\n" not in str(caught.value)
