"""A pattern of widths, repeated."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from bitdial.schedules._checks import Schedule, check_count, check_number, check_step, check_widths
from bitdial.schedules._stairs import slot_starts


@dataclass(frozen=True)
class Pattern:
    """A cycle of `widths` over `cycle_length` steps, for ever; the fields are the arguments of `pattern`."""

    widths: tuple[float, ...]
    cycle_length: int
    reverse: bool
    smooth: bool
    transition_steps: int
    progressive: bool
    progression_rate: float
    _starts: tuple[tuple[int, ...], tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = slot_starts(len(self.widths), self.cycle_length)
        # Backwards the slots are mirrored, not merely swapped: where they differ in length, so do the mirrored ones.
        ends = (*starts[1:], self.cycle_length)
        mirrored = tuple(self.cycle_length - end for end in reversed(ends))
        object.__setattr__(self, "_starts", (starts, mirrored))

    def __call__(self, step: int) -> float:
        cycle, position = divmod(check_step(step), self.cycle_length)
        starts = self._starts[self._runs_backwards(cycle)]
        slot = bisect_right(starts, position) - 1
        width = self._width(cycle, slot)
        moved = position - starts[slot] + 1
        if not self.smooth or moved >= self.transition_steps:
            return width
        before = self._width_before(cycle, slot)
        return before + (width - before) * moved / self.transition_steps

    def _runs_backwards(self, cycle: int) -> bool:
        return self.reverse and cycle % 2 == 1

    def _width(self, cycle: int, slot: int) -> float:
        width = self.widths[-1 - slot if self._runs_backwards(cycle) else slot]
        if not self.progressive:
            return width
        return max(min(self.widths), width * self.progression_rate**cycle)

    def _width_before(self, cycle: int, slot: int) -> float:
        if slot > 0:
            return self._width(cycle, slot - 1)
        return self._width(cycle - 1, len(self.widths) - 1) if cycle > 0 else self._width(0, 0)


def pattern(
    widths: Sequence[float],
    cycle_length: int = 20,
    *,
    reverse: bool = False,
    smooth: bool = False,
    transition_steps: int = 2,
    progressive: bool = False,
    progression_rate: float = 0.9,
) -> Schedule:
    """Return a schedule that goes through `widths`, stretched evenly over `cycle_length` steps, again and again.

    At step t, in cycle ``k = t // cycle_length`` at position ``p = t mod cycle_length``, the entry is number
    ``p * len(widths) // cycle_length``; where that does not divide, slots differ by one step.

    Args:
        widths: the widths of a cycle in order, each in [1, 32]; fractions are legal.
        cycle_length: steps in a cycle; at least one for each width.
        reverse: every second cycle (k odd) runs backwards, its slots mirrored.
        smooth: the width moves linearly from one entry to the next over the first `transition_steps` steps of a
            slot, over the boundary between cycles too, by at most ``(max - min) / transition_steps`` a step; widths
            in between are fractional. The run's first step is at its entry.
        transition_steps: steps that such a move takes, no more than the shortest slot; 1 is a jump.
        progressive: in cycle k the entries are ``max(min(widths), width * progression_rate**k)``.
        progression_rate: in (0, 1].

    Raises:
        ValueError: a width is outside [1, 32], the cycle has fewer steps than widths, a smooth transition does not
            fit into a slot, or the rate is outside (0, 1].

    >>> bits = pattern([8, 4, 2, 4, 8], cycle_length=10)
    >>> [int(bits(step)) for step in range(11)]
    [8, 8, 4, 4, 2, 2, 4, 4, 8, 8, 8]
    >>> bits = pattern([8, 4], cycle_length=6, smooth=True, transition_steps=2)
    >>> [bits(step) for step in range(9)]
    [8.0, 8.0, 8.0, 6.0, 4.0, 4.0, 6.0, 8.0, 8.0]
    """
    entries, length = check_widths(widths), check_count(cycle_length, "cycle_length")
    transition, rate = check_count(transition_steps, "transition_steps"), _check_rate(progression_rate)
    if length < len(entries):
        raise ValueError(
            f"cycle_length must be at least the number of widths, got {length} steps for {len(entries)} widths; "
            "make the cycle longer or the pattern shorter"
        )
    if smooth and transition > length // len(entries):
        raise ValueError(
            f"transition_steps must not exceed the shortest slot, which is {length // len(entries)} "
            f"({len(entries)} widths over {length} steps), got {transition}; lower it or make the cycle longer"
        )
    return Pattern(entries, length, bool(reverse), bool(smooth), transition, bool(progressive), rate)


def _check_rate(progression_rate: float) -> float:
    rate = check_number(progression_rate, "progression_rate")
    if not 0 < rate <= 1:
        raise ValueError(
            f"progression_rate must be in (0, 1], got {rate!r}; below 1 the widths shrink from cycle to cycle"
        )
    return rate
