import math

import pytest
from scipy import stats

from bitdial.errors import BitdialError
from bitdial.evaluation.statistics import corrected, interval, paired_difference, verdict


def test_interval_is_student_t_by_hand():
    # mean 2, s = 1, n = 3: half = t(0.975, 2) / sqrt(3) = 4.30265 / 1.73205 = 2.48414 (t from printed tables)
    result = interval([1.0, 2.0, 3.0])
    assert (result.mean, result.n) == (2.0, 3)
    assert result.half == pytest.approx(2.48414, abs=1e-5)


def test_interval_agrees_with_scipy():
    values = [0.91, 0.93, 0.87, 0.95, 0.90]
    low, high = stats.t.interval(0.95, 4, loc=sum(values) / 5, scale=stats.sem(values))
    result = interval(values)
    assert (result.low, result.high) == pytest.approx((low, high), abs=1e-12)


def test_another_confidence_is_another_quantile():
    # t(0.995, 2) = 9.92484 (printed tables): half = 9.92484 / sqrt(3) = 5.73011
    assert interval([1.0, 2.0, 3.0], confidence=0.99).half == pytest.approx(5.73011, abs=1e-5)
    assert paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], confidence=0.99).half == pytest.approx(5.73011, abs=1e-5)


def test_confidence_corrected_for_the_number_of_comparisons():
    assert [corrected(count) for count in (0, 1, 5, 50)] == pytest.approx([0.95, 0.95, 0.99, 0.999])


def test_an_interval_without_width_tells_nothing_apart():
    assert verdict(paired_difference([0.5, 0.6], [0.4, 0.5])) == "inside the interval"


def test_one_value_has_no_interval():
    result = interval([0.9])
    assert (result.mean, result.low, result.high, result.half, result.n) == (0.9, None, None, None, 1)


def test_a_seed_that_diverged_is_not_left_out():
    result = interval([0.5, math.nan, 0.6])
    assert math.isnan(result.mean)
    assert result.low is None
    assert result.n == 3


def test_no_values_is_an_error():
    with pytest.raises(BitdialError, match="at least one"):
        interval([])


def test_pairing_removes_what_the_seed_does_to_both():
    a, b = [0.50, 0.70, 0.90], [0.49, 0.69, 0.89]
    paired = paired_difference(a, b)
    assert paired.mean == pytest.approx(0.01)
    assert paired.half == pytest.approx(0, abs=1e-12)
    assert interval(a).half > 0.4


def test_pairs_need_equal_lengths():
    with pytest.raises(BitdialError, match="got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
