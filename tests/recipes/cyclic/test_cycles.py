import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdial.errors import BitdialError
from bitdial.evaluation.results import History
from bitdial.recipes.cyclic import analyze_cycle_progression


def history(losses, boundaries, steps=None):
    steps = list(range(len(losses))) if steps is None else steps
    return History(step=steps, loss=losses, bits=[8.0] * len(losses), cycle_boundaries=boundaries)


def test_statistics_of_each_cycle_by_hand():
    analysis = analyze_cycle_progression(history([4.0, 2.0, 3.0, 1.0], [0, 2]))
    first, second = analysis.cycles
    assert (first.mean, first.std, first.min, first.max, first.count) == (3.0, 1.0, 2.0, 4.0, 2)
    assert (second.first_step, second.last_step, second.mean) == (2, 3, 2.0)
    assert analysis.slope == pytest.approx(-1.0)


def test_stability_by_its_formula():
    # L = 2.5, std = 1 in both cycles: C = 1 / 2.5 = 0.4; means 3 then 2: no rise; F = 1
    falling = analyze_cycle_progression(history([4.0, 2.0, 3.0, 1.0], [0, 2]))
    assert falling.stability_score == pytest.approx(1 / 1.4)
    # the same backwards: means 2 then 3, rise 1: R = 1 / 2.5 = 0.4
    rising = analyze_cycle_progression(history([1.0, 3.0, 2.0, 4.0], [0, 2]))
    assert rising.stability_score == pytest.approx(1 / 1.8)


def test_a_constant_loss_is_perfectly_stable_and_converged():
    analysis = analyze_cycle_progression(history([0.5] * 12, [0, 3, 6, 9]))
    assert (analysis.stability_score, analysis.convergence, analysis.change) == (1.0, "converged", 0.0)


@pytest.mark.parametrize(
    ("means", "state"),
    [
        ([3.0, 2.0, 1.0], "improving"),
        ([1.0, 2.0, 3.0], "worsening"),
        ([3.0, 1.0, 0.99], "converged"),
        ([3.0, 1.0], "too few cycles"),
        ([9, 9, 9, 9, 1.0, 1.2, 1.2, 1.0], "converged"),  # quarters: (1.0 + 1.2) / 2 against (1.2 + 1.0) / 2
    ],
)
def test_convergence(means, state):
    losses = [mean for mean in means for _ in range(2)]
    analysis = analyze_cycle_progression(history(losses, list(range(0, len(losses), 2))))
    assert analysis.convergence == state


def test_one_cycle():
    analysis = analyze_cycle_progression(history([2.0, 1.0], []))
    assert len(analysis.cycles) == 1
    assert analysis.cycles[0].complete
    assert (analysis.slope, analysis.change, analysis.convergence) == (None, None, "too few cycles")


def test_an_incomplete_last_cycle_is_listed_but_left_out_of_the_trend():
    losses = [3.0] * 4 + [2.0] * 4 + [1.0] * 4 + [9.0] * 2
    analysis = analyze_cycle_progression(history(losses, [0, 4, 8, 12]))
    assert [cycle.complete for cycle in analysis.cycles] == [True, True, True, False]
    assert analysis.cycles[-1].mean == 9.0
    assert analysis.slope == pytest.approx(-1.0)
    assert analysis.convergence == "improving"


def test_a_boundary_right_after_the_last_step_ends_the_last_cycle():
    analysis = analyze_cycle_progression(history([1.0] * 6, [0, 4, 6]))
    assert [cycle.complete for cycle in analysis.cycles] == [True, True]


def test_sparse_logging_keeps_the_last_cycle_complete():
    steps = list(range(0, 40, 5))
    analysis = analyze_cycle_progression(history([1.0] * 8, [0, 10, 20, 30], steps))
    assert [cycle.complete for cycle in analysis.cycles] == [True] * 4
    assert [cycle.count for cycle in analysis.cycles] == [2] * 4


def test_non_finite_losses_are_counted_and_cost_stability():
    losses = [1.0, math.nan, 1.0, 1.0, math.inf, 1.0]
    analysis = analyze_cycle_progression(history(losses, [0, 2, 4]))
    assert [cycle.non_finite for cycle in analysis.cycles] == [1, 0, 1]
    assert [cycle.mean for cycle in analysis.cycles] == [1.0, 1.0, 1.0]
    assert analysis.stability_score == pytest.approx(4 / 6)


def test_a_cycle_without_a_finite_loss_is_never_converged():
    losses = [1.0, 1.0, 1.0, 1.0, math.nan, math.nan]
    analysis = analyze_cycle_progression(history(losses, [0, 2, 4]))
    assert math.isnan(analysis.cycles[2].mean)
    assert analysis.convergence == "worsening"
    assert analysis.slope == pytest.approx(0.0)


def test_all_nan_scores_zero():
    assert analyze_cycle_progression(history([math.nan] * 4, [0, 2])).stability_score == 0.0


def test_empty_history_is_an_error():
    with pytest.raises(BitdialError, match="no steps"):
        analyze_cycle_progression(History())


@given(
    losses=st.lists(st.floats(-1e6, 1e6) | st.just(math.nan) | st.just(math.inf), min_size=1, max_size=40),
    length=st.integers(1, 12),
    scale=st.floats(0.01, 100),
)
def test_stability_is_in_the_unit_interval_and_free_of_units(losses, length, scale):
    boundaries = list(range(0, len(losses), length))
    analysis = analyze_cycle_progression(history(losses, boundaries))
    scaled = analyze_cycle_progression(history([loss * scale for loss in losses], boundaries))
    assert 0.0 <= analysis.stability_score <= 1.0
    assert scaled.stability_score == pytest.approx(analysis.stability_score, abs=1e-6)
    assert sum(cycle.count + cycle.non_finite for cycle in analysis.cycles) == len(losses)
