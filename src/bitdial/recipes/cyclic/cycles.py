"""How the training loss moves from one precision cycle to the next."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field

from bitdial.errors import BitdialError
from bitdial.evaluation.results import History, Measured, Record

TOLERANCE = 0.02
"""Relative change of the mean loss up to which it counts as standing still."""

CRITERION = (
    "the mean loss of the last quarter of the complete cycles (at least one) against that of the quarter before: "
    f"converged within ±{TOLERANCE:.0%}, improving below, worsening above; three complete cycles are needed"
)


Progress = Literal["converged", "improving", "worsening", "too few cycles"]


class CycleStatistics(Record):
    """The training loss within one cycle."""

    index: int
    """Number of the cycle, from 0."""
    first_step: int
    """First logged step of the cycle."""
    last_step: int
    """Last logged step of the cycle."""
    mean: Measured
    """Mean loss over the finite ones; null when there is none."""
    std: Measured
    """Standard deviation of the loss (divided by n)."""
    min: Measured
    """Lowest loss."""
    max: Measured
    """Highest loss."""
    count: int
    """How many finite losses were logged."""
    non_finite: int
    """How many losses were NaN or infinite; they are left out of the four numbers above."""
    complete: bool
    """False for a last cycle that training ended within."""


class CycleAnalysis(Record):
    """How the loss moves from cycle to cycle."""

    arm: str | None = None
    """The arm that was analysed."""
    seed: int | None = None
    """Its seed."""
    cycles: list[CycleStatistics]
    """Every cycle with a logged step."""
    slope: float | None
    """Slope of the means of the complete cycles, in loss per cycle; null with fewer than two."""
    change: Measured | None
    """Relative change of the mean loss in the last quarter of the complete cycles; null with fewer than three."""
    convergence: Progress
    """Whether the means have stopped moving: what `change` says under `criterion`."""
    criterion: str
    """The rule behind `convergence`, in words."""
    stability_score: float = Field(ge=0, le=1)
    """F / (1 + C + R) in [0, 1], see `analyze_cycle_progression`."""


def analyze_cycle_progression(history: History) -> CycleAnalysis:
    """Return statistics for each cycle, their trend, whether they converge, and how stable training was.

    **Cycles.** A cycle runs from one of ``history.cycle_boundaries`` to the next; the first logged step starts a cycle
    whether it is listed or not. A last cycle that is shorter than the median of the others is *incomplete*: it is
    listed, and left out of trend and convergence. Losses that are not finite are counted, and left out of
    the statistics.

    **Trend.** `slope` is the least-squares slope of the means of the complete cycles, in loss per cycle.

    **Convergence.** With K complete cycles and ``w = max(1, K // 4)``, let b be the mean over the last w cycles and a
    that over the w before; ``change = (b - a) / |a|``. Converged when ``|change| <= 0.02``, improving below, worsening
    above (and when one of those cycles has no finite loss); too few cycles when K < 3. A quarter rather than a single
    cycle, so that the noise of one cycle does not decide.

    **Stability.** ``stability_score = F / (1 + C + R)``, in [0, 1], where

    - F is the fraction of logged losses that are finite,
    - C = (1/K) sum_k std_k / L is the mean spread within a cycle,
    - R = (1/(K-1)) sum_k max(0, m[k] - m[k-1]) / L is the mean rise from a cycle to the next (0 when K = 1),
    - L is the mean absolute finite loss of the whole run, which makes the score independent of the loss's unit,

    over the K cycles that have a finite loss. It is 1 for a loss that never moves within a cycle nor rises between
    cycles, one half where the spread is as large as the loss itself, and 0 when no loss is finite.

    Args:
        history: The log of one arm; any spacing of logged steps.

    Raises:
        BitdialError: the history is empty.
    """
    if not history.step:
        raise BitdialError("cannot analyse cycles: the history has no steps; train for at least one logged step")
    cycles = _cycles(history)
    means = [cycle.mean for cycle in cycles if cycle.complete]
    return CycleAnalysis(
        cycles=cycles,
        slope=_slope(means),
        change=(change := _change(means)),
        convergence=_convergence(change),
        criterion=CRITERION,
        stability_score=_stability(history.loss, cycles),
    )


def _cycles(history: History) -> list[CycleStatistics]:
    first, last = history.step[0], history.step[-1]
    spacings = [later - earlier for earlier, later in pairwise(history.step)]
    end = last + (int(statistics.median(spacings)) if spacings else 1)
    edges = [first, *sorted({edge for edge in history.cycle_boundaries if first < edge <= last}), end]
    lengths = [stop - start for start, stop in pairwise(edges)]
    # A boundary that stands right after the last step says that the last cycle was walked to its end.
    closed = any(last < edge <= end for edge in history.cycle_boundaries)
    whole = closed or len(lengths) == 1 or lengths[-1] >= statistics.median(lengths[:-1])
    found: list[CycleStatistics] = []
    for start, stop in pairwise(edges):
        inside = [(step, loss) for step, loss in zip(history.step, history.loss, strict=True) if start <= step < stop]
        if inside:
            found.append(_statistics(len(found), inside, complete=whole or stop != end))
    return found


def _statistics(index: int, inside: Sequence[tuple[int, float]], *, complete: bool) -> CycleStatistics:
    finite = [loss for _, loss in inside if math.isfinite(loss)]
    return CycleStatistics(
        index=index,
        first_step=inside[0][0],
        last_step=inside[-1][0],
        mean=statistics.fmean(finite) if finite else math.nan,
        std=statistics.pstdev(finite) if finite else math.nan,
        min=min(finite, default=math.nan),
        max=max(finite, default=math.nan),
        count=len(finite),
        non_finite=len(inside) - len(finite),
        complete=complete,
    )


def _slope(means: Sequence[float]) -> float | None:
    points = [(float(index), mean) for index, mean in enumerate(means) if math.isfinite(mean)]
    if len(points) < 2:
        return None
    return statistics.linear_regression([index for index, _ in points], [mean for _, mean in points]).slope


def _change(means: Sequence[float]) -> float | None:
    if len(means) < 3:
        return None
    quarter = max(1, len(means) // 4)
    after = statistics.fmean(means[-quarter:])
    before = statistics.fmean(means[-2 * quarter : -quarter])
    if before == 0:
        return 0.0 if after == 0 else math.copysign(math.inf, after)
    return (after - before) / abs(before)


def _convergence(change: float | None) -> Progress:
    if change is None:
        return "too few cycles"
    if abs(change) <= TOLERANCE:
        return "converged"
    return "improving" if change < 0 else "worsening"


def _stability(losses: Sequence[float], cycles: Sequence[CycleStatistics]) -> float:
    finite = [abs(loss) for loss in losses if math.isfinite(loss)]
    if not finite:
        return 0.0
    level = statistics.fmean(finite) or 1.0  # every loss is 0: nothing moves, whatever the unit
    seen = [cycle for cycle in cycles if cycle.count]
    spread = statistics.fmean(cycle.std for cycle in seen) / level
    rises = [max(0.0, later.mean - earlier.mean) for earlier, later in pairwise(seen)]
    rise = statistics.fmean(rises) / level if rises else 0.0
    return len(finite) / len(losses) / (1 + spread + rise)
