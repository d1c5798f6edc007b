"""A linear way into a schedule."""

from __future__ import annotations

from dataclasses import dataclass

from bitdial.schedules._checks import check_count, check_number, check_schedule, check_step
from bitdial.schedules._curves import blend
from bitdial.schedules._types import Schedule


@dataclass(frozen=True)
class Warmup:
    """From `start` to the first value of `schedule` over `steps` steps, then `schedule` from its step 0."""

    schedule: Schedule
    steps: int
    start: float

    def __call__(self, step: int) -> float:
        now = check_step(step)
        if now >= self.steps:
            return self.schedule(now - self.steps)
        return blend(self.start, self.schedule(0), now / self.steps)


def warmup(schedule: Schedule, steps: int, start: float) -> Schedule:
    """Return the schedule that moves linearly from `start` to the first value of `schedule`, then follows it.

    `schedule` is moved to the right by `steps`, not cut: at step ``steps`` it is at its own step 0.

    Args:
        schedule: what comes after the warm-up.
        steps: length of the warm-up; 0 is none.
        start: the value at step 0, from 0 up. For widths, 32 starts unquantized; to *hold* a width before
            a schedule use `join` with `static`.

    Raises:
        ValueError: `schedule` is not a function, `steps` is not a whole number from 0 up, or `start` is negative or
            not finite.

    >>> from bitdial.schedules import static
    >>> bits = warmup(static(4), steps=4, start=8)
    >>> [bits(step) for step in range(6)]
    [8.0, 7.0, 6.0, 5.0, 4.0, 4.0]
    """
    return Warmup(check_schedule(schedule), check_count(steps, "steps", least=0), check_number(start, "start", least=0))
