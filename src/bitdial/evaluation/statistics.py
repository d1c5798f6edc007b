"""Means over seeds, with the interval that few seeds allow."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from bitdial.errors import BitdialError
from bitdial.evaluation.results import Interval

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of `values` and its 95% Student t interval.

    With n values, mean m and sample standard deviation s, the interval is ``m ± t(0.975, n - 1) * s / sqrt(n)``
    (Student, "The probable error of a mean", Biometrika 6, 1908). One value has a mean and no interval. A value that is
    not finite makes the mean NaN: a seed that diverged is not left out silently.

    Args:
        values: One number for each seed.

    Raises:
        BitdialError: `values` is empty.
    """
    if not values:
        raise BitdialError("expected at least one value to average, got none; train at least one seed")
    n = len(values)
    if not all(math.isfinite(value) for value in values):
        return Interval(mean=math.nan, n=n)
    mean = statistics.fmean(values)
    if n == 1:
        return Interval(mean=mean, n=1)
    half = _student(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Return the mean and the 95% interval of ``a[i] - b[i]``, where entry i of both comes from the same seed.

    What a seed does to both sides (the order of the data, the start of the weights) cancels out, so that the interval
    is usually much narrower than the two intervals would suggest.

    Raises:
        BitdialError: the two have different lengths, or are empty.
    """
    if len(a) != len(b):
        raise BitdialError(f"paired values must have the same length, got {len(a)} and {len(b)}; pair them by seed")
    return interval([left - right for left, right in zip(a, b, strict=True)])


def _student(freedom: int) -> float:
    """Return the two-sided 95% quantile of Student's t with `freedom` degrees of freedom."""
    # scipy.special holds the same quantile as scipy.stats.t and is imported ten times faster.
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
