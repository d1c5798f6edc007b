"""Cosine cycles, and the published form of cyclic precision training (CPT)."""

from __future__ import annotations

from dataclasses import dataclass

from bitdial.schedules._checks import check_count, check_period, check_range, check_step
from bitdial.schedules._curves import blend, cosine
from bitdial.schedules._types import Schedule


@dataclass(frozen=True)
class CosineCycle:
    """Half a cosine wave from `low` up to `high`, then a jump back, every `period` steps."""

    low: float
    high: float
    period: int
    rounded: bool

    def __call__(self, step: int) -> float:
        share = cosine(check_step(step) % self.period / self.period)
        bits = min(self.high, blend(self.low, self.high, share))  # the sum may end one rounding error above
        return float(round(bits)) if self.rounded else bits


def cosine_cycle(low: float, high: float, period: int, *, rounded: bool = False) -> Schedule:
    """Return a schedule that rises from `low` towards `high` along half a cosine wave, then jumps back, for ever.

    With ``z = (t mod period) / period``::

        bits(t) = low + (high - low) / 2 * (1 + cos(pi z + pi))

    The first step of a cycle is exactly `low`; `high` itself is the limit at the cycle's end, which rounding reaches
    and the continuous form approaches.

    Args:
        low: the lowest width, in [1, 32].
        high: the highest width, in [1, 32].
        period: steps in a cycle.
        rounded: round to whole bits, halves to the even neighbour.

    Raises:
        ValueError: a width is outside [1, 32], `low` exceeds `high`, or `period` is not a whole number from 1 up.

    >>> bits = cosine_cycle(low=2, high=8, period=4)
    >>> [round(bits(step), 3) for step in range(5)]
    [2.0, 2.879, 5.0, 7.121, 2.0]
    """
    return CosineCycle(*check_range(low, high), check_count(period, "period"), bool(rounded))


def cpt(low: float, high: float, iterations: int, cycles: int) -> Schedule:
    """Return the schedule of cyclic precision training as published: `cycles` rounded cosine cycles.

    With ``T = iterations // cycles``::

        bits(t) = rint(low + (high - low) / 2 * (1 + cos(pi * (t mod T) / T + pi)))

    where rint rounds halves to the even neighbour. The width rises from `low` to `high`, then jumps back. Where
    `cycles` does not divide `iterations`, the steps left over begin one more cycle.

    Args:
        low: the lowest width, in [1, 32] (Bmin).
        high: the highest width, in [1, 32] (Bmax).
        iterations: training steps.
        cycles: cycles over those steps (the paper's N; 32 on CIFAR).

    Raises:
        ValueError: a width is outside [1, 32], `low` exceeds `high`, or there are fewer iterations than cycles.

    Source: Fu et al., CPT: Efficient Deep Neural Network Training via Cyclic Precision, ICLR 2021, equation 1, and
    its published code.

    >>> bits = cpt(low=3, high=8, iterations=20, cycles=2)
    >>> [int(bits(step)) for step in range(12)]
    [3, 3, 3, 4, 5, 6, 6, 7, 8, 8, 3, 3]
    """
    return cosine_cycle(low, high, check_period(iterations, cycles), rounded=True)
