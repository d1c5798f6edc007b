"""Schedules made of schedules: joined, warmed up, snapped, shifted by layer; and numbers made of their values."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitdial.schedules._checks import (
    LayerSchedule,
    Schedule,
    check_bits,
    check_count,
    check_list,
    check_number,
    check_rising,
    check_schedule,
    check_step,
    check_widths,
)
from bitdial.schedules._curves import blend


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
    check_rising(cuts, "boundaries")
    return Joined(parts, (0, *cuts))


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


@dataclass(frozen=True)
class PerLayer:
    """Layer i reads `schedule` at ``step + i * offset``."""

    schedule: Schedule
    offset: int

    def __call__(self, step: int, layer: int) -> float:
        return self.schedule(check_step(step) + check_step(layer, "layer") * self.offset)


def per_layer(schedule: Schedule, offset: int) -> LayerSchedule:
    """Return the layer schedule in which layer i reads `schedule` at ``step + i * offset``.

    Args:
        schedule: of the step alone.
        offset: steps by which each layer runs ahead of the one before; 0 keeps them together.

    Raises:
        ValueError: `schedule` is not a function, or `offset` is not a whole number from 0 up.

    >>> from bitdial.schedules import pattern
    >>> bits = per_layer(pattern([8, 4, 2], cycle_length=3), offset=1)
    >>> [int(bits(0, layer)) for layer in range(4)]
    [8, 4, 2, 8]
    """
    return PerLayer(check_schedule(schedule), check_count(offset, "offset", least=0))


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


def interpolate_factors(factors: Mapping[float, float], bits: float) -> float:
    """Return the factor for a width: the given one, linear between two given widths, constant beyond the ends.

    Args:
        factors: from widths in [1, 32] to factors from 0 up; at least one.
        bits: the width asked for, in [1, 32].

    Raises:
        ValueError: `factors` is empty or no mapping, or one of its numbers or `bits` is out of bounds.

    >>> factors = {2: 0.5, 4: 0.75, 8: 1.0, 16: 1.0}
    >>> [interpolate_factors(factors, bits) for bits in (1, 2, 3, 4, 6, 32)]
    [0.5, 0.5, 0.625, 0.75, 0.875, 1.0]
    """
    if not isinstance(factors, Mapping) or not factors:
        raise ValueError(
            f"factors must map at least one width to a factor, got {factors!r}; write for example {{8: 1.0}}"
        )
    asked = check_bits(bits, "bits")
    known = sorted(
        (check_bits(width, "each width in factors"), check_number(factor, f"the factor of width {width!r}", least=0))
        for width, factor in factors.items()
    )
    above = bisect_left(known, (asked,))
    if above == len(known):
        return known[-1][1]
    if above == 0 or known[above][0] == asked:
        return known[above][1]
    (low, low_factor), (high, high_factor) = known[above - 1], known[above]
    return blend(low_factor, high_factor, (asked - low) / (high - low))
