import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.transforms import Bbox

from bitdial.evaluation.assemble import assemble
from bitdial.evaluation.cycle_plots import cycle_statistics, training_curves
from bitdial.evaluation.plot_style import arm_styles
from bitdial.evaluation.plots import FIGURES, accuracy_against_cost, accuracy_against_width, save_plots
from tests.evaluation.fabricate import arms_of, fabricate


@pytest.fixture(scope="module")
def results():
    return fabricate(seeds=3, iterations=200)


def test_four_files_that_are_pictures(tmp_path, results):
    paths = save_plots(results, tmp_path / "plots")
    assert [path.name for path in paths] == [f"{name}.png" for name in FIGURES]
    assert len(FIGURES) == 4
    for path in paths:
        pixels = imread(path)[..., :3]
        assert pixels.shape[1] > 1200
        assert len(np.unique(pixels @ [1.0, 1e3, 1e6])) > 50  # colours: something is drawn


def test_pyplot_and_its_global_figures_are_not_touched(results):
    training_curves(results)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_training_curves_show_every_cycle_boundary_and_units(results):
    figure = training_curves(results)
    loss, _, bits, _ = figure.axes
    boundaries = {float(line.get_xdata()[0]) for line in loss.lines if len(set(line.get_xdata())) == 1}
    assert boundaries == set(map(float, range(0, 200, 20)))
    assert loss.get_ylabel() == "training loss (nats)"
    assert bits.get_ylabel() == "width (bits)"
    assert bits.get_xlabel() == "step"


def test_a_loss_that_is_not_finite_is_marked():
    figure = training_curves(fabricate(seeds=1, iterations=200, diverged=True))
    marks = [line for line in figure.axes[0].lines if line.get_label() == "not finite"]
    assert [list(line.get_xdata()) for line in marks] == [[100]]


def test_thousands_of_cycles_become_a_band():
    figure = training_curves(fabricate(seeds=1, iterations=4000, cycle_length=10))
    assert len(figure.axes[0].lines) < 5
    assert len(figure.axes[2].collections) == 1


def test_every_arm_and_every_interval_is_in_the_width_figure(results):
    axes = accuracy_against_width(results).axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert labels[:-1] == results.comparison.ranking
    assert axes.get_ylabel() == "accuracy (%)"
    assert len(axes.collections) == 9  # the bars of one arm each
    single = accuracy_against_width(fabricate(seeds=1, iterations=40)).axes[0]
    assert len(single.collections) == 0


def test_no_label_covers_another_label_or_a_point(results):
    figure = accuracy_against_cost(results)
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        boxes = [text.get_window_extent(renderer) for text in axes.texts]
        assert len(boxes) == 9
        for index, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        for row in results.comparison.summaries:
            cost = row.bitops if axes is figure.axes[0] else row.seconds
            x, y = axes.transData.transform((cost, 100 * row.own.mean))
            point = Bbox.from_bounds(x - 4, y - 4, 8, 8)
            assert not any(box.overlaps(point) for box in boxes)


def test_bitops_are_called_simulated_and_stand_beside_seconds(results):
    figure = accuracy_against_cost(results)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "training BitOps (simulated)",
        "training time (seconds, wall-clock)",
    ]


def test_the_drawn_front_is_that_of_the_comparison(results):
    (front,) = [line for line in accuracy_against_cost(results).axes[0].lines if line.get_label() == "Pareto front"]
    expected = [results.comparison.summary(name).bitops for name in results.comparison.pareto]
    assert list(front.get_xdata()) == expected


def test_cycle_statistics_show_each_cycle(results):
    left, right = cycle_statistics(results).axes
    (mean,) = [line for line in left.lines if line.get_label() == "mean"]
    assert list(mean.get_ydata()) == [cycle.mean for cycle in results.cycles[0].cycles]
    assert len(right.patches) == 10  # nine changes of ten cycles, and the band


def test_arms_look_different_from_each_other(results):
    styles = arm_styles(results.comparison.summaries)
    assert len({(style.colour, style.marker) for style in styles.values()}) == 9
    assert len({style.colour for style in styles.values()}) == 9


def test_no_cycles_and_no_history_leave_those_figures_out(tmp_path):
    results = assemble(arms_of("a", [0.9]), config={})
    assert [path.stem for path in save_plots(results, tmp_path)] == ["accuracy_by_width", "accuracy_by_cost"]


def test_difficult_names_are_drawn(tmp_path):
    arms = arms_of("_hidden", [0.9]) + arms_of("$x_{$", [0.8], bits=4) + arms_of("a$b", [0.7], bits=2)
    results = assemble(arms, config={})
    assert len(save_plots(results, tmp_path)) == 2
    labels = accuracy_against_width(results).axes[0].get_legend_handles_labels()[1]
    assert labels[:-1] == [" _hidden", r"\$x_{\$", r"a\$b"]
