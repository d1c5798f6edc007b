"""Patterns of widths: stretched, reversed, smoothed, shrinking."""

from __future__ import annotations

import pytest

from bitdial.schedules import pattern


def widths(schedule, steps, start=0):
    return [schedule(step) for step in range(start, start + steps)]


def test_widths_are_stretched_evenly_over_the_cycle():
    bits = pattern([8, 4, 2, 4, 8])
    cycle = [8] * 4 + [4] * 4 + [2] * 4 + [4] * 4 + [8] * 4
    assert widths(bits, 40) == cycle + cycle


def test_where_the_widths_do_not_divide_the_cycle_slots_differ_by_one_step():
    # p * 3 // 10: 0 0 0 0 1 1 1 2 2 2
    assert widths(pattern([8, 4, 2], cycle_length=10), 10) == [8, 8, 8, 8, 4, 4, 4, 2, 2, 2]


def test_one_step_for_each_width_is_the_shortest_cycle():
    assert widths(pattern([8, 4, 2], cycle_length=3), 6) == [8, 4, 2, 8, 4, 2]


def test_reverse_runs_every_second_cycle_backwards_step_by_step():
    forward = [8, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    bits = pattern([8, 4, 2], cycle_length=10, reverse=True)
    assert widths(bits, 30) == forward + forward[::-1] + forward


def test_smooth_moves_linearly_over_the_transition_and_over_the_cycle_boundary():
    bits = pattern([8, 4, 2], cycle_length=9, smooth=True, transition_steps=3)
    # From 8 to 4 in three steps of 4/3, from 4 to 2 in three of 2/3, from 2 back to 8 in three of 2.
    assert widths(bits, 12) == pytest.approx([8, 8, 8, 20 / 3, 16 / 3, 4, 10 / 3, 8 / 3, 2, 4, 6, 8])


def test_a_transition_of_one_step_is_a_jump():
    sharp = pattern([8, 4, 2], cycle_length=10)
    smooth = pattern([8, 4, 2], cycle_length=10, smooth=True, transition_steps=1)
    assert widths(sharp, 40) == widths(smooth, 40)


def test_smooth_and_reverse_need_no_move_where_the_cycle_turns():
    bits = pattern([8, 4], cycle_length=4, smooth=True, transition_steps=2, reverse=True)
    assert widths(bits, 12) == [8, 8, 6, 4, 4, 4, 6, 8, 8, 8, 6, 4]


def test_progressive_shrinks_the_widths_from_cycle_to_cycle_down_to_the_lowest():
    bits = pattern([8, 4, 2], cycle_length=3, progressive=True, progression_rate=0.5)
    assert widths(bits, 12) == [8, 4, 2, 4, 2, 2, 2, 2, 2, 2, 2, 2]


def test_progressive_by_nine_tenths_by_hand():
    bits = pattern([8, 4, 2, 4, 8], cycle_length=5, progressive=True)
    assert widths(bits, 5, start=10) == pytest.approx([6.48, 3.24, 2, 3.24, 6.48])  # times .81


def test_progressive_smooth_passes_from_the_old_widths_to_the_shrunk_ones():
    bits = pattern([8, 4], cycle_length=4, smooth=True, transition_steps=2, progressive=True, progression_rate=0.75)
    # Cycle 0: 8 8 then over 6 to 4; cycle 1 has 6 and max(4, 3) = 4: over 5 to 6, over 5 to 4.
    assert widths(bits, 8) == [8, 8, 6, 4, 5, 6, 5, 4]


def test_fractional_widths_are_legal():
    assert widths(pattern([2.5, 1.58], cycle_length=2), 2) == [2.5, 1.58]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": []}, "widths must hold at least one width, got none"),
        ({"widths": 8}, "widths must be a list, got 8; write for example"),
        ({"widths": {8: 1.0}}, "widths must be a list, got {8: 1.0}"),
        ({"widths": "842"}, "widths must be a list, got '842'"),
        ({"widths": [8, 0]}, r"widths\[1\] must be a width in \[1, 32\] bits, got 0"),
        ({"widths": [8, None]}, r"widths\[1\] must be a width .* got None"),
        ({"widths": [8, 4, 2], "cycle_length": 2}, "cycle_length must be at least .* got 2 steps for 3 widths"),
        ({"widths": [8, 4], "cycle_length": -1}, "cycle_length must be a whole number of at least 1, got -1"),
        (
            {"widths": [8, 4, 2], "cycle_length": 10, "smooth": True, "transition_steps": 4},
            r"must not exceed the shortest slot, which is 3 \(3 widths over 10 steps\), got 4",
        ),
        ({"widths": [8, 4], "transition_steps": 0}, "transition_steps must be a whole number of at least 1, got 0"),
        ({"widths": [8, 4], "progression_rate": 0}, r"progression_rate must be in \(0, 1\], got 0"),
        ({"widths": [8, 4], "progression_rate": 1.1}, r"progression_rate must be in \(0, 1\], got 1.1"),
    ],
)
def test_bad_arguments_are_refused_when_the_schedule_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        pattern(**arguments)


def test_a_transition_that_does_not_fit_matters_only_when_it_is_used():
    assert pattern([8, 4], cycle_length=2, transition_steps=5)(0) == 8
