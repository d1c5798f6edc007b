"""Only the widths that are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitdial.schedules._checks import check_schedule, check_widths
from bitdial.schedules._types import Schedule


@dataclass(frozen=True)
class Snapped:
    """`schedule`, moved to the nearest of `widths`."""

    schedule: Schedule
    widths: tuple[float, ...]

    def __call__(self, step: int) -> float:
        bits = self.schedule(step)
        return min(self.widths, key=lambda width: (abs(width - bits), -width))


def snap_to(schedule: Schedule, widths: Sequence[float]) -> Schedule:
    """Return `schedule` with every value moved to the nearest of `widths`; half-way goes to the higher one.

    Args:
        schedule: of the step alone; snap first, then `per_layer`.
        widths: the widths to keep to, in any order, each in [1, 32].

    Raises:
        ValueError: `schedule` is not a function, or a width is outside [1, 32].

    >>> from bitdial.schedules import cosine_cycle
    >>> bits = snap_to(cosine_cycle(low=2, high=8, period=6), [2, 4, 8])
    >>> [int(bits(step)) for step in range(6)]
    [2, 2, 4, 4, 8, 8]
    """
    return Snapped(check_schedule(schedule), tuple(sorted(set(check_widths(widths)))))
