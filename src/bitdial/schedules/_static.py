"""The schedule that does not move."""

from __future__ import annotations

from dataclasses import dataclass

from bitdial.schedules._checks import check_bits, check_step
from bitdial.schedules._types import Schedule


@dataclass(frozen=True)
class Static:
    """The same width at every step."""

    bits: float

    def __call__(self, step: int) -> float:
        check_step(step)
        return self.bits


def static(bits: float) -> Schedule:
    """Return the schedule that is `bits` at every step.

    Args:
        bits: a width in [1, 32]; 32 is unquantized.

    Raises:
        ValueError: `bits` is outside [1, 32].

    >>> static(4)
    Static(bits=4.0)
    >>> static(4)(1000)
    4.0
    """
    return Static(check_bits(bits, "bits"))
