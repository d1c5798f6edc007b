"""Static, ladder, progressive and random widths."""

from __future__ import annotations

import random

import pytest

from bitdial.schedules import ladder, progressive, random_bits, static


def widths(schedule, steps):
    return [schedule(step) for step in range(steps)]


def test_static_never_moves():
    assert {static(4)(step) for step in (0, 1, 10**9)} == {4.0}


def test_ladder_goes_down_in_equal_shares_and_stays_on_the_last_rung():
    assert widths(ladder([8, 4, 2], iterations=10), 13) == [8, 8, 8, 8, 4, 4, 4, 2, 2, 2, 2, 2, 2]


def test_progressive_goes_up_in_equal_shares_and_stays_on_the_last_width():
    assert widths(progressive([3, 4, 6, 8], iterations=8), 10) == [3, 3, 4, 4, 6, 6, 8, 8, 8, 8]


def test_a_repeated_rung_is_held_for_longer():
    assert widths(ladder([8, 4, 4], iterations=6), 6) == [8, 8, 4, 4, 4, 4]


def test_random_bits_are_the_same_on_every_machine():
    # Frozen: a change here changes what a resumed run or another rank draws.
    assert widths(random_bits([2, 4, 8], seed=0), 12) == [4, 2, 8, 4, 8, 8, 2, 4, 4, 4, 4, 8]


def test_random_bits_leave_and_ignore_the_global_random_state():
    bits = random_bits([2, 4, 8], seed=7)
    random.seed(1)
    first, after = widths(bits, 50), random.random()
    random.seed(1)
    assert random.random() == after
    assert widths(bits, 50) == first


def test_random_bits_can_be_asked_in_any_order():
    bits = random_bits([2, 4, 8], seed=3)
    assert [bits(step) for step in reversed(range(50))][::-1] == widths(bits, 50)


def test_random_bits_hold_a_draw():
    bits, single = random_bits([2, 4, 8], seed=3, hold=5), random_bits([2, 4, 8], seed=3)
    assert widths(bits, 100) == [single(step // 5) for step in range(100)]


def test_random_bits_draw_evenly():
    drawn = widths(random_bits([2, 4, 8], seed=0), 3000)
    # 1000 each expected, standard deviation 26: five of them either way.
    assert all(870 < drawn.count(width) < 1130 for width in (2, 4, 8))


def test_another_seed_is_another_sequence():
    assert widths(random_bits([2, 4, 8], seed=0), 50) != widths(random_bits([2, 4, 8], seed=1), 50)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: static(0.5), r"bits must be a width in \[1, 32\] bits, got 0.5"),
        (lambda: static(float("inf")), "bits must be a width in .* got inf"),
        (lambda: static(10**400), "bits must be a width in .* got 1000"),
        (lambda: static([4]), r"bits must be a width in .* got \[4\]"),
        (lambda: ladder([2, 4, 8], 10), r"never rise, got \[2.0, 4.0, 8.0\]; sort them .* or use progressive"),
        (lambda: progressive([8, 4], 10), r"never fall, got \[8.0, 4.0\]; sort them .* or use ladder"),
        (lambda: ladder([8, 4, 2], 2), "got 2 iterations for 3 widths"),
        (lambda: progressive([3, 4], True), "iterations must be a whole number of at least 1, got True"),
        (lambda: random_bits([]), "widths must hold at least one width, got none"),
        (lambda: random_bits({2, 4}), "widths must be a list, got {2, 4}"),
        (lambda: random_bits([2], seed=0.5), "seed must be a whole number, got 0.5"),
        (lambda: random_bits([2], hold=0), "hold must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_when_the_schedule_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()
