"""Numbers that fall once over a run: linear, cosine, in steps, and the three phases of HPCM."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitdial.schedules import cosine_decay, hpcm, linear_decay, step_decay

GOLDEN = [
    (linear_decay(0.006, 0.001, 3000), {0: 0.006, 750: 0.00475, 2250: 0.00225, 3000: 0.001}),
    (
        cosine_decay(0.006, 0.001, 3000),
        {0: 0.006, 1: 0.00599999862922, 750: 0.00526776695297, 1500: 0.0035, 2250: 0.00173223304703, 3000: 0.001},
    ),
    (step_decay(0.006, 0.5, [1000, 2000]), {0: 0.006, 999: 0.006, 1000: 0.003, 1999: 0.003, 2000: 0.0015}),
    (
        hpcm(0.006, 3000),
        {
            0: 0.006, 150: 0.0066, 299: 0.007196, 300: 0.0072, 1150: 0.0054, 1999: 0.00360211764706,
            2000: 0.0042, 2500: 0.00357, 2999: 0.00294126, 3000: 0.00294,
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "values"), GOLDEN)
def test_values_by_hand(schedule, values):
    assert {step: schedule(step) for step in values} == pytest.approx(values, rel=1e-11)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in GOLDEN])
def test_the_last_value_stays_and_a_schedule_can_be_pickled(schedule):
    assert schedule(10**9) == schedule(3000)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    with pytest.raises(ValueError, match="step must be a whole number from 0 up, got -1"):
        schedule(-1)


def test_linear_and_cosine_are_exact_at_their_ends():
    for made in (linear_decay, cosine_decay):
        schedule = made(0.1, 0.7, 3)  # may rise, too
        assert (schedule(0), schedule(3)) == (0.1, 0.7)


def test_the_phases_jump_where_refinement_begins_unless_continuous():
    jumping, continuous = hpcm(1.0, 3000), hpcm(1.0, 3000, continuous=True)
    assert jumping(2000) - jumping(1999) == pytest.approx(0.1, abs=1e-3)
    assert continuous(2000) == pytest.approx(0.6)
    assert (continuous(3000), jumping(3000)) == pytest.approx((0.49, 0.49))
    moves = [abs(continuous(step + 1) - continuous(step)) for step in range(3000)]
    assert max(moves) < 7e-4  # the warm-up's slope, .2 / 300


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 30), st.integers(0, 400))
def test_the_phases_scale_with_the_run(total, factor, step):
    assert hpcm(1.0, total * factor)(min(step, total) * factor) == pytest.approx(hpcm(1.0, total)(step), rel=1e-12)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 300), st.integers(0, 400))
def test_a_decay_stays_between_its_ends_and_moves_one_way(initial, final, total, step):
    for schedule in (linear_decay(initial, final, total), cosine_decay(initial, final, total)):
        low, high = sorted([initial, final])
        assert low - 1e-12 <= schedule(step) <= high + 1e-12
        assert (schedule(step + 1) - schedule(step)) * (final - initial) >= -1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_decay(float("nan"), 0, 3), "initial must be a finite number, got nan"),
        (lambda: cosine_decay(1, None, 3), "final must be a finite number, got None"),
        (lambda: linear_decay(1, 0, 0), "total must be a whole number of at least 1, got 0"),
        (lambda: hpcm(1, 2.5), "total must be a whole number of at least 1, got 2.5"),
        (lambda: step_decay(1, -0.5, [1]), "factor must be a finite number of at least 0, got -0.5"),
        (lambda: step_decay(1, 0.5, [2000, 1000]), r"steps must rise, got \[2000, 1000\]; sort them"),
        (lambda: step_decay(1, 0.5, [0]), r"steps\[0\] must be a whole number of at least 1, got 0"),
        (lambda: step_decay(1, 0.5, 1000), r"steps must be a list, got 1000; write \[1000, 2000\]"),
    ],
)
def test_bad_arguments_are_refused_when_the_schedule_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()
