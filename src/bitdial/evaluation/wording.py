"""How numbers are written for people: the same in the table, the plots and the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from bitdial.evaluation.results import Interval
from bitdial.wording import MISSING as MISSING
from bitdial.wording import bytes_text as bytes_text
from bitdial.wording import duration as duration
from bitdial.wording import seconds as seconds

MINUS = "\u2212"
"""The sign, as wide as the plus."""
_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def percent(value: Interval, *, sign: str = "%") -> str:
    """Return a fraction as a percentage with its `spread`: ``"93.4% ± 0.5"``, ``"93.4%"`` with one seed."""
    if not math.isfinite(value.mean):
        return MISSING
    return f"{100 * value.mean:.1f}{sign}{spread(value, lambda each: f'{100 * each:.1f}')}"


def spread(value: Interval, written: Callable[[float], str]) -> str:
    """Return what stands behind a mean: ``" ± 0.5"``, half its 95% interval; nothing with one seed.

    Of two seeds both values, ``" (77.4 to 89.4)"``: their interval is 12.7 times as wide, and says nothing.

    Args:
        value: mean and 95% interval.
        written: how a value is written.
    """
    if value.half is None:
        return ""
    if (both := two_values(value)) is not None:
        return f" ({written(both[0])} to {written(both[1])})"
    return f" ± {written(value.half)}"


def two_values(value: Interval, *, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the two values, the smaller first, that an interval of two is of; None for any other number.

    The interval is t times as wide as they lie apart, where t is ``tan(pi * confidence / 2)``: Student's t with one
    degree of freedom, 12.7 at 95%.
    """
    if value.half is None or value.n != 2:
        return None
    away = value.half / math.tan(math.pi * confidence / 2)
    return value.mean - away, value.mean + away


def half_shown(value: Interval) -> float | None:
    """Return how far a figure reaches about a mean: half its 95% interval, of two seeds to both; None with one."""
    both = two_values(value)
    return value.half if both is None else (both[1] - both[0]) / 2


def bars_note(seeds: Iterable[int]) -> str:
    """Return what a figure draws about means of so many seeds each, in words; empty where each has one."""
    numbers = set(seeds)
    told = ["bars are 95% intervals over seeds"] if max(numbers) > 2 else []
    told += ["small dots are the two seeds"] if 2 in numbers else []
    return "; ".join(told)


def spread_note(seeds: Iterable[int]) -> str:
    """Return what stands behind the means of a table, of so many seeds each, in words without a full stop."""
    numbers = set(seeds)
    told = ["± is half a 95% interval over seeds"] if max(numbers) > 2 else []
    told += ["below a mean, or in brackets, both of two seeds"] if 2 in numbers else []
    return "; ".join(told) or "one seed: no interval"


def points(value: float, *, digits: int = 1) -> str:
    """Return a difference of fractions in percentage points, with a real minus sign: ``"+0.4"``, ``"-1.2"``."""
    if not math.isfinite(value):
        return MISSING
    text = f"{100 * value:+.{digits}f}"
    return text.replace("-", MINUS) if float(text) else f"{0:.{digits}f}"


def span(value: Interval) -> str:
    """Return the ends of an interval of differences in percentage points: ``"−0.2 to +0.8"``; empty without one."""
    return "" if value.low is None or value.high is None else f"{points(value.low)} to {points(value.high)}"


def reach(difference: Interval, name: str = "95% interval", *, confidence: float = 0.95) -> str:
    """Return what stands beside a mean difference: ``"95% interval −0.2 to +0.8"``; nothing with one seed.

    Of two seeds both differences, ``"both seeds: −0.4, +0.2"``, which say more than their interval.
    """
    text = ends(difference, confidence=confidence)
    return f"{'both seeds:' if difference.n == 2 else name} {text}".strip() if text else ""


def ends(difference: Interval, *, confidence: float = 0.95) -> str:
    """Return the ends of an interval of differences in points, as `span`; of two seeds both differences."""
    both = two_values(difference, confidence=confidence)
    return span(difference) if both is None else f"{points(both[0])}, {points(both[1])}"


def bits(width: float) -> str:
    """Return a width in words: ``"4 bits"``, ``"1 bit"``."""
    return f"{width:g} bit{'s' if width != 1 else ''}"


def engineering(value: float) -> str:
    """Return a count with three digits and a prefix: ``"1.23 T"`` for 1.23e12."""
    if not math.isfinite(value):
        return MISSING
    power = 0
    while power < len(_PREFIXES) - 1 and float(f"{abs(value) / 1000**power:.3g}") >= 1000:
        power += 1
    scaled = value / 1000**power
    digits = max(0, 2 - (math.floor(math.log10(abs(float(f"{scaled:.3g}")))) if scaled else 0))
    return f"{scaled:.{digits}f} {_PREFIXES[power]}".rstrip()


def change(value: float) -> str:
    """Return a relative change in per cent: ``"+5.9%"``, ``"-12.4%"``."""
    return f"{points(value)}%" if math.isfinite(value) else MISSING
