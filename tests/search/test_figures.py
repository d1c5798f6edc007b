"""The figures: nothing covers anything, whatever the names and the number of values; what is missing is shown so."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure

from bitdial.search import HyperparameterAnalyzer
from bitdial.search.columns import is_log
from bitdial.search.run_plots import pareto_front
from tests.search.conftest import Make
from tests.search.fabricate import HOSTILE, LAMBDAS, odd, run, scatter, sweep

Draw = Callable[[HyperparameterAnalyzer], Figure]


def square(side: int, text: bool = False) -> list[Any]:
    values = [f"layers.{'x' * 30}.{i}" for i in range(side)] if text else [i / 2 for i in range(side)]
    return [run(f"{i}-{j}", {"a": i, "b": values[j]}, {"acc": i * j % 7}) for i in range(side) for j in range(side)]


PLOTS: dict[str, Draw] = {
    "heat map": lambda a: a.plot_heatmap("lr", "width", "psnr"),
    "old heat map": lambda a: a.plot_heatmap(metric="psnr"),
    "comparison": lambda a: a.plot_comparison("lr", "psnr"),
    "of choices": lambda a: a.plot_comparison("kind", "psnr"),
    "importance": lambda a: a.plot_importance("psnr"),
    "parallel": lambda a: a.plot_parallel_coordinates("psnr"),
    "Pareto": lambda a: a.plot_pareto("bpp", "psnr"),
}
MORE: dict[str, tuple[Callable[[], list[Any]], Draw]] = {
    "heat map of 30 x 30": (lambda: square(30), lambda a: a.plot_heatmap("a", "b")),
    "heat map of 12 x 12": (lambda: square(12), lambda a: a.plot_heatmap("a", "b")),
    "heat map of long names": (lambda: square(30, text=True), lambda a: a.plot_heatmap("a", "b")),
    "heat map of a random search": (lambda: scatter(200), lambda a: a.plot_heatmap()),
    "heat map of one value": (lambda: scatter(9)[:1], lambda a: a.plot_heatmap("lr", "optimizer")),
    "comparison of a random search": (lambda: scatter(200), lambda a: a.plot_comparison("lr")),
    "comparison of long names": (lambda: square(30, text=True), lambda a: a.plot_comparison("b")),
    "comparison of many lambdas": (lambda: sweep(tuple(0.001 * 1.2**i for i in range(20)), 1), PLOTS["comparison"]),
    "parallel, many": (lambda: scatter(300, 20), lambda a: a.plot_parallel_coordinates()),
    "importance of many": (lambda: scatter(60, 40), lambda a: a.plot_importance()),
    "odd heat map": (odd, lambda a: a.plot_heatmap(HOSTILE[0], "mixed", "accuracy")),
    "odd comparison": (odd, lambda a: a.plot_comparison("mixed", "accuracy")),
    "odd comparison of huge": (odd, lambda a: a.plot_comparison("huge", "accuracy")),
    "odd importance": (odd, lambda a: a.plot_importance("accuracy")),
    "odd parallel": (odd, lambda a: a.plot_parallel_coordinates("accuracy")),
    "odd Pareto": (odd, lambda a: a.plot_pareto("loss (metric)", "accuracy")),
    "two runs": (lambda: sweep((), 1)[:2], lambda a: a.plot_parallel_coordinates("psnr")),
}


def check(figure: Figure) -> None:
    """No text covers another, and all are inside of the figure."""
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    parts: list[Any] = [*figure.legends, figure._suptitle]  # type: ignore[attr-defined]
    for axes in figure.axes:
        parts += axes.texts
        if not axes.axison:
            continue
        parts += [axes.yaxis.label, axes.xaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            inside = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            parts += [tick.label1 for tick in inside if tick.label1.get_visible()]
    boxes = [box for box in (part.get_window_extent(renderer) for part in parts) if box.width * box.height]
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1
        assert figure.bbox.y0 - 1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1


@pytest.mark.parametrize("lambdas", [(), (0.013,), LAMBDAS], ids=["no lambda", "one", "seven"])
@pytest.mark.parametrize("plot", PLOTS)
def test_figures_with_any_number_of_lambdas(analyzer_of: Make, plot: str, lambdas: tuple[float, ...]) -> None:
    figure = PLOTS[plot](analyzer_of(sweep(lambdas)))
    check(figure)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("plot", MORE)
def test_figures_of_much_and_of_odd_things(analyzer_of: Make, plot: str) -> None:
    make, draw = MORE[plot]
    check(draw(analyzer_of(make())))


def mesh(figure: Figure) -> Any:
    (found,) = [each for each in figure.axes[0].collections if isinstance(each, QuadMesh)]
    return found.get_array()


def test_a_heat_map_has_the_means_and_shows_what_is_missing(analyzer_of: Make) -> None:
    runs = [
        run(f"{x}{y}{s}", {"x": x, "y": y, "seed": s}, {"psnr": 10.0 * x + y + s})
        for x, y in ((1, 1), (1, 2), (2, 1))
        for s in (0, 1)
    ]
    figure = analyzer_of(runs).plot_heatmap("x", "y", "psnr")
    means = mesh(figure)
    assert np.ma.filled(means, -1).tolist() == [[11.5, 12.5], [21.5, -1]]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["11.5", "12.5", "21.5", "\u2013"]
    frames = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    assert [frame.get_xy() for frame in frames] == [(0.0, 1.0)]  # type: ignore[attr-defined]
    lowest = analyzer_of(runs).plot_heatmap("x", "y", "psnr", maximize=False)
    assert [p.get_xy() for p in lowest.axes[0].patches if not p.get_fill()] == [(0.0, 0.0)]  # type: ignore[attr-defined]


def test_a_heat_map_of_one_lambda_has_its_runs_alone(analyzer_of: Make) -> None:
    analyzer = analyzer_of(sweep())
    one, by_keyword = analyzer.plot_heatmap(0.013), analyzer.plot_heatmap("lr", "width", "psnr", lambda_value=0.013)
    assert np.ma.filled(mesh(one), 0).tolist() == np.ma.filled(mesh(by_keyword), 0).tolist()
    every = mesh(analyzer.plot_heatmap("lr", "width", "psnr"))
    assert abs(every - mesh(one)).max() > 0.01


def test_thirty_by_thirty_drops_numbers_and_thins_ticks(analyzer_of: Make) -> None:
    figure = analyzer_of(square(30)).plot_heatmap("a", "b")
    assert not list(figure.axes[0].texts)
    assert mesh(figure).shape == (30, 30)
    many = analyzer_of(square(40)).plot_heatmap("a", "b")
    assert mesh(many).shape == (12, 12)
    assert "a in 12 bins" in many._suptitle.get_text()  # type: ignore[attr-defined]


def test_a_comparison_has_a_series_a_lambda(analyzer_of: Make) -> None:
    figure = analyzer_of(sweep()).plot_comparison("lr", "psnr")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"{each:g}" for each in LAMBDAS]
    assert figure.axes[0].get_xscale() == "log"
    assert analyzer_of(sweep((0.013,))).plot_comparison("lr", "psnr").legends == []
    assert analyzer_of(sweep()).plot_comparison("lr", "psnr", lambda_value=0.013).legends == []
    assert analyzer_of(sweep()).plot_comparison("lambda_value", "psnr").legends == []


def test_parallel_coordinates_draw_missing_values_below_the_axes(analyzer_of: Make) -> None:
    figure = analyzer_of(odd()).plot_parallel_coordinates("accuracy")
    (lines,) = [each for each in figure.axes[0].collections if isinstance(each, LineCollection)]
    heights = np.array([path.vertices[:, 1] for path in lines.get_paths()])
    names = [text.get_text().split("\n")[0] for text in figure.axes[0].texts]
    column = [name for name in names if name in ("only.sgd.momentum", "accuracy")].index("only.sgd.momentum")
    assert sorted((heights[:, column] < 0).tolist()) == [False] * 4 + [True] * 6
    assert heights[:, -1].max() <= 1


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([1e-5, 1e-4, 1e-3], True),
        ([16, 32, 64, 128, 256], True),
        (list(LAMBDAS), True),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], False),
        ([0.0, 1e-4, 1e-3], False),
        ([0.1, 0.2, 0.9], False),
        ([-1.0, 10.0, 100.0], False),
        ([1e-4, 1e-1], True),
        ([3], False),
    ],
)
def test_axes_are_logarithmic_where_values_lie_so(values: list[float], log: bool) -> None:
    assert is_log(values) is log


def test_the_front_is_what_none_beats() -> None:
    points = [(1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (2.0, 2.0), (4.0, 4.0), (4.0, 4.0), (1.0, 0.5)]
    assert sorted(pareto_front(points, (False, True))) == [0, 1, 4, 5]
    assert sorted(pareto_front(points, (True, True))) == [4, 5]
    assert sorted(pareto_front(points, (False, False))) == [6]


def test_an_interval_much_wider_than_the_runs_does_not_press_them_flat(analyzer_of: Make) -> None:
    runs = [run(f"{x}{s}", {"x": x, "seed": s}, {"psnr": 30 + x + 0.1 * s}) for x in (1, 2) for s in (0, 1)]
    low, high = analyzer_of(runs).plot_comparison("x").axes[0].get_ylim()
    assert 29 < low < 31 < 32 < high < 34
    assert math.isfinite(low)
