"""Piecewise constant values: the steps at which they change, and the schedule that follows them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from bitdial.schedules._checks import check_step


def slot_starts(count: int, length: int) -> tuple[int, ...]:
    """Return where each of `count` slots starts when they are stretched evenly over `length` steps.

    Slot j holds the steps p with ``p * count // length == j``, so that slots differ by at most one step.

    >>> slot_starts(5, 20)
    (0, 4, 8, 12, 16)
    >>> slot_starts(3, 10)
    (0, 4, 7)
    """
    return tuple(-(-index * length // count) for index in range(count))


@dataclass(frozen=True)
class Stairs:
    """``values[k]`` from step ``starts[k]`` on, until the next start; the last value is held for ever.

    Attributes:
        values: what the schedule returns.
        starts: as many rising steps, the first of them 0.
    """

    values: tuple[float, ...]
    starts: tuple[int, ...]

    def __call__(self, step: int) -> float:
        return self.values[bisect_right(self.starts, check_step(step)) - 1]
