"""Means over seeds, with the interval that few seeds allow."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from bitdial.errors import BitdialError
from bitdial.evaluation.results import Interval, Verdict

CONFIDENCE = 0.95
TIE_MARGIN = 0.01
"""The most accuracy (as a fraction) that a candidate or an arm may lose against the leader and still tie with it."""


def interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of `values` and its Student t interval.

    With n values, mean m and sample standard deviation s, the interval of 95% is ``m ± t(0.975, n - 1) * s / sqrt(n)``
    (Student, "The probable error of a mean", Biometrika 6, 1908). One value has a mean and no interval. A value that is
    not finite makes the mean NaN: a seed that diverged is not left out silently.

    Args:
        values: One number for each seed.
        confidence: In (0, 1): how often such an interval holds the true mean, for normally distributed values.

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
    # scipy.special holds the same quantile as scipy.stats.t and is imported ten times faster.
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


def paired_difference(a: Sequence[float], b: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean and the interval of ``a[i] - b[i]``, where entry i of both comes from the same seed.

    What a seed does to both sides (the order of the data, the start of the weights) cancels out, so that the interval
    is usually much narrower than the two intervals would suggest. `confidence` is that of `interval`.

    Raises:
        BitdialError: the two have different lengths, or are empty.
    """
    if len(a) != len(b):
        raise BitdialError(f"paired values must have the same length, got {len(a)} and {len(b)}; pair them by seed")
    return interval([left - right for left, right in zip(a, b, strict=True)], confidence=confidence)


def seed_difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = CONFIDENCE) -> Interval | None:
    """Return `paired_difference` of two mappings from seeds over those that both have; None when they share none."""
    shared = sorted(a.keys() & b.keys())
    return interval([a[seed] - b[seed] for seed in shared], confidence=confidence) if shared else None


def ties(lost: float, difference: Interval | None) -> bool:
    """Whether what lost this much mean accuracy against a leader ties with it, given their difference's interval."""
    return lost == 0 or (lost <= TIE_MARGIN and difference is not None and verdict(difference) == "inside the interval")


def corrected(comparisons: int) -> float:
    """Return the confidence of each of several intervals so that all hold at once in 95 of 100 runs (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(1, comparisons)


def verdict(difference: Interval) -> Verdict:
    """Say what the interval of a difference allows to say.

    An interval without width claims certainty from seeds that happened to land on the same count of right answers; it
    is treated as holding 0.
    """
    if difference.low is None or difference.high is None:
        return "no interval"
    if difference.low <= 0 <= difference.high or difference.high - difference.low < 1e-9:
        return "inside the interval"
    return "better" if difference.mean > 0 else "worse"
