"""One schedule after another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bitdial.schedules._checks import check_count, check_list, check_schedule, check_step
from bitdial.schedules._types import Schedule


@dataclass(frozen=True)
class Joined:
    """``schedules[k]`` from step ``starts[k]`` on, each counting its own steps from 0."""

    schedules: tuple[Schedule, ...]
    starts: tuple[int, ...]

    def __call__(self, step: int) -> float:
        now = check_step(step)
        index = bisect_right(self.starts, now) - 1
        return self.schedules[index](now - self.starts[index])


def join(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """Return the schedule that follows the first of `schedules` up to the first boundary, then the second, and so on.

    A boundary is the first step of the next schedule. Each schedule sees its own step, counted from 0.

    Args:
        schedules: at least one.
        boundaries: one fewer than schedules, rising, from 1 up.

    Raises:
        ValueError: the numbers do not fit together, a boundary does not rise, or a schedule is not a function.

    >>> from bitdial.schedules import ladder, static
    >>> bits = join([static(32), ladder([8, 4], iterations=4)], boundaries=[3])
    >>> [int(bits(step)) for step in range(8)]
    [32, 32, 32, 8, 8, 4, 4, 4]
    """
    given = check_list(schedules, "schedules", "[first, second]")
    if not given:
        raise ValueError("schedules must hold at least one schedule, got none; write [first, second]")
    parts = tuple(check_schedule(part, f"schedules[{index}]") for index, part in enumerate(given))
    starts = check_list(boundaries, "boundaries", "[1000] for two schedules")
    cuts = tuple(check_count(start, f"boundaries[{index}]") for index, start in enumerate(starts))
    if len(cuts) != len(parts) - 1:
        raise ValueError(
            f"boundaries must be one fewer than schedules, got {len(cuts)} boundaries for {len(parts)} schedules; "
            "give the first step of each schedule but the first"
        )
    if any(after <= before for before, after in pairwise(cuts)):
        raise ValueError(f"boundaries must rise, got {list(cuts)}; sort them and drop the doubles")
    return Joined(parts, (0, *cuts))
