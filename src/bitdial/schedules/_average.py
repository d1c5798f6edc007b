"""What a schedule costs, in bits."""

from __future__ import annotations

import math

from bitdial.schedules._checks import check_count, check_schedule
from bitdial.schedules._types import Schedule


def average(schedule: Schedule, iterations: int) -> float:
    """Return the mean value of `schedule` over steps 0 to ``iterations - 1``.

    Args:
        schedule: of the step alone.
        iterations: training steps, from 1 up.

    Raises:
        ValueError: `schedule` is not a function, or `iterations` is not a whole number from 1 up.

    >>> from bitdial.schedules import pattern
    >>> average(pattern([8, 4, 2, 4, 8], cycle_length=20), iterations=200)
    5.2
    """
    check_schedule(schedule)
    total = check_count(iterations, "iterations")
    return math.fsum(schedule(step) for step in range(total)) / total
