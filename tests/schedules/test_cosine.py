"""The cosine cycle and the published CPT schedule, against points computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bitdial.schedules import cosine_cycle, cpt


def widths(schedule, steps):
    return [schedule(step) for step in range(steps)]


def test_cpt_follows_points_computed_by_hand():
    # T = 12 // 2 = 6, low 3, high 8: 5.5 - 2.5 cos(pi t / 6)
    #   t = 0: 3.000   1: 5.5 - 2.165 = 3.335   2: 5.5 - 1.25 = 4.25   3: 5.5, a half, to the even 6
    #   t = 4: 6.75    5: 5.5 + 2.165 = 7.665, and step 6 jumps back
    assert widths(cpt(3, 8, iterations=12, cycles=2), 7) == [3, 3, 4, 6, 7, 8, 3]


def test_cpt_rounds_halves_to_the_even_width():
    # At t = T / 2 the value is (low + high) / 2: 4.5 goes down to 4, 5.5 goes up to 6.
    assert cpt(3, 6, iterations=4, cycles=1)(2) == 4
    assert cpt(3, 8, iterations=4, cycles=1)(2) == 6


def test_cpt_jumps_back_at_each_of_its_cycles():
    bits = widths(cpt(3, 8, iterations=64_000, cycles=32), 64_000)
    jumps = [step for step in range(1, 64_000) if bits[step] < bits[step - 1]]
    assert jumps == [2_000 * cycle for cycle in range(1, 32)]
    assert all(bits[step - 1] == 8 and bits[step] == 3 for step in jumps)


def test_cpt_takes_the_whole_part_of_iterations_over_cycles():
    bits = cpt(2, 8, iterations=11, cycles=3)
    assert [step for step in range(11) if bits(step) == 2] == [0, 3, 6, 9]


@pytest.mark.parametrize(("low", "high"), [(3, 8), (3, 6), (2, 8), (4, 8), (1, 16)])
@pytest.mark.parametrize("period", [1, 2, 7, 20, 125])
def test_cpt_is_the_published_formula(low, high, period):
    steps = np.arange(3 * period)
    exact = low + (high - low) / 2 * (1 + np.cos(np.pi * (steps % period) / period + np.pi))
    # Where the exact value is a half, the last bit of a cosine decides; those are tested by hand above.
    decided = np.abs(exact % 1 - 0.5) > 1e-9
    bits = np.array(widths(cpt(low, high, 3 * period, 3), 3 * period))
    assert decided.sum() >= period
    np.testing.assert_array_equal(bits[decided], np.rint(exact)[decided])


def test_cosine_cycle_is_continuous_within_its_cycle():
    # low 2, high 8, T 4: 5 - 3 cos(pi t / 4)
    half = 3 / math.sqrt(2)
    assert widths(cosine_cycle(2, 8, 4), 5) == pytest.approx([2, 5 - half, 5, 5 + half, 2])


def test_cosine_cycle_of_equal_ends_is_static():
    assert set(widths(cosine_cycle(5, 5, 7), 20)) == {5.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cosine_cycle(8, 3, 20), "low must not exceed high, got low=8 and high=3; swap them"),
        (lambda: cosine_cycle(0, 3, 20), r"low must be a width in \[1, 32\] bits, got 0"),
        (lambda: cosine_cycle(3, 33, 20), r"high must be a width in \[1, 32\] bits, got 33"),
        (lambda: cosine_cycle(3, math.nan, 20), "high must be a width in .* got nan"),
        (lambda: cosine_cycle(3, "8", 20), "high must be a width in .* got '8'"),
        (lambda: cosine_cycle(3, 8, 0), "period must be a whole number of at least 1, got 0"),
        (lambda: cosine_cycle(3, 8, 2.5), "period must be a whole number of at least 1, got 2.5"),
        (lambda: cpt(3, 8, 10, 0), "cycles must be a whole number of at least 1, got 0"),
        (lambda: cpt(3, 8, 10, 11), "iterations must be at least the number of cycles, got 10 iterations for 11"),
        (lambda: cpt(True, 8, 10, 1), "low must be a width in .* got True"),
    ],
)
def test_bad_arguments_are_refused_when_the_schedule_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()
