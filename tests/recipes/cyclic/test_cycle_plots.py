import sys

import pytest

from bitdial.recipes.cyclic.report import cycle_statistics, cyclic_curves
from tests.evaluation.fabricate import fabricate


@pytest.fixture(scope="module")
def results():
    return fabricate(seeds=3, iterations=200)


def test_pyplot_and_its_global_figures_are_not_touched(results):
    cyclic_curves(results)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_cyclic_curves_show_every_cycle_boundary_and_units(results):
    figure = cyclic_curves(results)
    loss, _, rate, _, bits, _ = figure.axes
    boundaries = {float(line.get_xdata()[0]) for line in loss.lines if len(set(line.get_xdata())) == 1}
    assert boundaries == set(map(float, range(0, 200, 20)))
    assert loss.get_ylabel() == "training loss (nats)"
    assert rate.get_ylabel() == "learning rate"
    assert bits.get_ylabel() == "width (bits)"
    assert bits.get_xlabel() == "step"


def test_a_loss_that_is_not_finite_is_marked():
    figure = cyclic_curves(fabricate(seeds=1, iterations=200, diverged=True))
    marks = [line for line in figure.axes[0].lines if line.get_label() == "not finite"]
    assert [list(line.get_xdata()) for line in marks] == [[100]]


def test_thousands_of_cycles_become_a_band():
    figure = cyclic_curves(fabricate(seeds=1, iterations=4000, cycle_length=10))
    assert len(figure.axes[0].lines) < 5
    assert len(figure.axes[4].collections) == 1


def test_cycle_statistics_show_each_cycle(results):
    left, right = cycle_statistics(results).axes
    (mean,) = [line for line in left.lines if line.get_label() == "mean"]
    assert list(mean.get_ydata()) == [cycle.mean for cycle in results.cycles[0].cycles]
    assert len(right.patches) == 10  # nine changes of ten cycles, and the band
