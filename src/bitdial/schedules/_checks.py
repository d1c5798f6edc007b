"""The two shapes that a schedule can have, and checks of what a user hands to one.

Each error says what was expected, what was got, and what to do.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import pairwise
from numbers import Real
from typing import SupportsIndex, TypeAlias, TypeVar

Schedule: TypeAlias = Callable[[int], float]
"""From a step (0, 1, 2, ...) to a value; for widths, bits in [1, 32]."""

LayerSchedule: TypeAlias = Callable[[int, int], float]
"""From a step and a layer index (0 is the first layer) to a value."""

_Callable = TypeVar("_Callable")
_Entry = TypeVar("_Entry")


def check_step(step: object, name: str = "step") -> int:
    """Return `step` as an int; it must be a whole number from 0 up."""
    whole = _whole(step)
    if whole is None or whole < 0:
        raise ValueError(
            f"{name} must be a whole number from 0 up, got {step!r}; count from 0, as `enumerate(loader)` does"
        )
    return whole


def check_count(value: object, name: str, least: int = 1) -> int:
    """Return `value` as an int; it must be a whole number of at least `least`."""
    whole = _whole(value)
    if whole is None or whole < least:
        raise ValueError(
            f"{name} must be a whole number of at least {least}, got {value!r}; pass a larger or whole value"
        )
    return whole


def check_rising(steps: Sequence[int], name: str) -> None:
    """Every step must be later than the one before it."""
    if any(after <= before for before, after in pairwise(steps)):
        raise ValueError(f"{name} must rise, got {list(steps)}; sort them and drop the doubles")


def check_whole(value: object, name: str) -> int:
    """Return `value` as an int; any sign will do."""
    whole = _whole(value)
    if whole is None:
        raise ValueError(f"{name} must be a whole number, got {value!r}; pass an int")
    return whole


def check_number(value: object, name: str, least: float = -math.inf) -> float:
    """Return `value` as a float; it must be a finite number of at least `least`."""
    number = _real(value)
    if number is None or not math.isfinite(number) or number < least:
        bound = "" if least == -math.inf else f" of at least {least:g}"
        raise ValueError(f"{name} must be a finite number{bound}, got {value!r}; pass such an int or a float")
    return number


def check_bits(value: object, name: str) -> float:
    """Return `value` as a float; it must be a width in [1, 32]."""
    number = _real(value)
    if number is None or not 1 <= number <= 32:
        raise ValueError(f"{name} must be a width in [1, 32] bits, got {value!r}; 32 stands for unquantized")
    return number


def check_widths(widths: Iterable[object], name: str = "widths") -> tuple[float, ...]:
    """Return `widths` as a tuple of floats; at least one, each in [1, 32]."""
    entries = check_list(widths, name, "for example [8, 4, 2, 4, 8]")
    checked = tuple(check_bits(width, f"{name}[{index}]") for index, width in enumerate(entries))
    if not checked:
        raise ValueError(f"{name} must hold at least one width, got none; write for example [8, 4, 2, 4, 8]")
    return checked


def check_list(values: Iterable[_Entry], name: str, example: str) -> tuple[_Entry, ...]:
    """Return `values` as a tuple; it must be a list or the like, not a lone value, a text, or without an order."""
    if isinstance(values, str | Mapping | Set) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a list, got {values!r}; write {example}")
    return tuple(values)


def check_range(low: object, high: object) -> tuple[float, float]:
    """Return `low` and `high` as floats; widths in [1, 32] in rising order."""
    bottom, top = check_bits(low, "low"), check_bits(high, "high")
    if bottom > top:
        raise ValueError(f"low must not exceed high, got low={low!r} and high={high!r}; swap them")
    return bottom, top


def check_period(iterations: object, cycles: object) -> int:
    """Return the period ``iterations // cycles``; it must be at least one step."""
    total, count = check_count(iterations, "iterations"), check_count(cycles, "cycles")
    if total < count:
        raise ValueError(
            f"iterations must be at least the number of cycles, got {total} iterations for {count} cycles; "
            "train for longer or ask for fewer cycles"
        )
    return total // count


def check_schedule(schedule: _Callable, name: str = "schedule") -> _Callable:
    """Return `schedule`; it must be callable."""
    if not callable(schedule):
        advice = (
            f"for a constant width write static({schedule!r})" if _real(schedule) else "make one with static or cpt"
        )
        raise ValueError(f"{name} must be a function of the step, got {schedule!r}; {advice}")
    return schedule


def _whole(value: object) -> int | None:
    if type(value) is int:  # nearly always: asking a protocol takes microseconds
        return value
    # A bool is an int to Python, but never what was meant by a number of steps.
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array of several numbers
        return None


def _real(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:  # an int beyond the largest float
        return None
