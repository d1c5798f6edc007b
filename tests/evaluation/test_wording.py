import math

import pytest

from bitdial.evaluation.results import Interval
from bitdial.evaluation.statistics import interval
from bitdial.evaluation.wording import (
    MINUS,
    MISSING,
    bars_note,
    duration,
    ends,
    engineering,
    half_shown,
    percent,
    points,
    reach,
    seconds,
    span,
    spread_note,
    two_values,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"),
        (5, "5.00"),
        (999.4, "999"),
        (999.6, "1.00 k"),
        (1.23e12, "1.23 T"),
        (45.6e9, "45.6 G"),
        (9.999e6, "10.0 M"),
        (7.5e23, "750 Z"),
        (math.nan, MISSING),
    ],
)
def test_engineering(value, text):
    assert engineering(value) == text


def test_percent_names_its_interval_only_where_there_is_one():
    assert percent(Interval(mean=0.934, n=1)) == "93.4%"
    assert percent(Interval(mean=0.934, low=0.929, high=0.939, n=3)) == "93.4% ± 0.5"
    assert percent(Interval(mean=math.nan, n=1)) == MISSING


def test_of_two_seeds_both_are_shown():
    assert percent(interval([0.774, 0.894])) == "83.4% (77.4 to 89.4)"
    assert two_values(interval([0.894, 0.774])) == pytest.approx((0.774, 0.894))
    assert two_values(interval([0.894, 0.774, 0.8])) is None
    assert two_values(interval([0.894, math.nan])) is None


def test_a_figure_reaches_to_both_of_two_seeds_and_to_the_interval_of_more():
    assert half_shown(interval([0.774, 0.894])) == pytest.approx(0.06)
    three = interval([0.774, 0.894, 0.8])
    assert half_shown(three) == three.half
    assert half_shown(interval([0.774])) is None
    assert bars_note([1]) == ""
    assert bars_note([2, 1]) == "small dots are the two seeds"
    assert bars_note([3, 2]) == "bars are 95% intervals over seeds; small dots are the two seeds"


@pytest.mark.parametrize("confidence", [0.95, 0.9983])
def test_a_difference_of_two_seeds_is_told_by_both(confidence):
    two = interval([0.002, -0.004], confidence=confidence)
    assert ends(two, confidence=confidence) == f"{MINUS}0.4, +0.2"
    assert reach(two, "interval", confidence=confidence) == f"both seeds: {MINUS}0.4, +0.2"
    assert reach(Interval(mean=0.0, low=-0.002, high=0.008, n=3)) == f"95% interval {MINUS}0.2 to +0.8"
    assert reach(Interval(mean=0.0, n=1)) == ""


def test_a_table_says_what_stands_behind_its_means():
    assert spread_note([1, 1]) == "one seed: no interval"
    assert spread_note([2, 1]) == "below a mean, or in brackets, both of two seeds"
    assert spread_note([3, 2]) == f"{spread_note([3])}; {spread_note([2])}"


def test_points_have_a_sign_but_zero_has_none():
    assert points(0.0123) == "+1.2"
    assert points(-0.0123) == f"{MINUS}1.2"
    assert points(-0.0001) == "0.0"
    assert points(math.nan) == MISSING


def test_span():
    assert span(Interval(mean=0.0, low=-0.002, high=0.008, n=2)) == f"{MINUS}0.2 to +0.8"
    assert span(Interval(mean=0.0, n=1)) == ""


def test_seconds():
    assert [seconds(v) for v in (8.44, 9.96, 75.2, 12400, None)] == ["8.4", "10", "75", "12\u202f400", MISSING]


def test_duration():
    values = (3e-7, 6.9e-5, 0.0021, 0.9996, 8.44, 59.4, 59.6, 75, 3599.6, 12400, 4e6, 0, math.inf)
    assert [duration(v).replace("\u00a0", " ") for v in values] == [
        "0.3 µs", "69 µs", "2.1 ms", "1.0 s", "8.4 s", "59 s", "1 min 00 s", "1 min 15 s", "1 h 00 min", "3 h 26 min",
        "1\u202f111 h 06 min", "0 s", MISSING,
    ]  # fmt: skip
