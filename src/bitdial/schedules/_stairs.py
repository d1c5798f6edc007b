"""Widths that are held for a while: one for ever, down a ladder, progressively up, at random, or in a pattern."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

from bitdial.schedules._checks import (
    Schedule,
    check_bits,
    check_count,
    check_number,
    check_step,
    check_whole,
    check_widths,
)


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


@dataclass(frozen=True)
class Stairs:
    """``values[k]`` from step ``starts[k]`` (never falling from 0; of equal ones the last counts) until the next."""

    values: tuple[float, ...]
    starts: tuple[int, ...]

    def __call__(self, step: int) -> float:
        return self.values[bisect_right(self.starts, check_step(step)) - 1]


def ladder(widths: Sequence[float], iterations: int) -> Schedule:
    """Return a schedule that goes down `widths`, each for an equal share of `iterations`, and stays on the last.

    At step t the rung is number ``min(t, iterations - 1) * len(widths) // iterations``. A width may be repeated
    to be held for longer.

    Args:
        widths: the rungs, never rising, each in [1, 32].
        iterations: training steps; at least one for each rung.

    Raises:
        ValueError: the widths rise somewhere, one is outside [1, 32], or there are fewer iterations than rungs.

    >>> bits = ladder([8, 4, 2], iterations=6)
    >>> [int(bits(step)) for step in range(8)]
    [8, 8, 4, 4, 2, 2, 2, 2]
    """
    rungs = check_widths(widths)
    if any(after > before for before, after in pairwise(rungs)):
        raise ValueError(
            f"ladder needs widths that never rise, got {list(rungs)}; sort them from high to low, or use progressive "
            "for rising widths and pattern for both"
        )
    return _evenly(rungs, iterations)


def progressive(widths: Sequence[float], iterations: int) -> Schedule:
    """Return a schedule that goes up `widths`, each for an equal share of `iterations`, and stays on the last.

    The same as `ladder` upwards: low precision while the network is coarse, high precision to finish.

    Args:
        widths: the widths, never falling, each in [1, 32]; FracTrain's forward widths are ``[3, 4, 6, 8]``.
        iterations: training steps; at least one for each width.

    Raises:
        ValueError: the widths fall somewhere, one is outside [1, 32], or there are fewer iterations than widths.

    Source: Fu et al., FracTrain: Fractionally Squeezing Bit Savings Both Temporally and Spatially for Efficient DNN
    Training, NeurIPS 2020, which moves on when the loss levels off; here the shares are equal, so that the schedule
    stays a function of the step alone.

    >>> bits = progressive([3, 4, 6, 8], iterations=8)
    >>> [int(bits(step)) for step in range(10)]
    [3, 3, 4, 4, 6, 6, 8, 8, 8, 8]
    """
    rungs = check_widths(widths)
    if any(after < before for before, after in pairwise(rungs)):
        raise ValueError(
            f"progressive needs widths that never fall, got {list(rungs)}; sort them from low to high, or use ladder "
            "for falling widths and pattern for both"
        )
    return _evenly(rungs, iterations)


def _evenly(rungs: tuple[float, ...], iterations: int) -> Stairs:
    total = check_count(iterations, "iterations")
    if total < len(rungs):
        raise ValueError(
            f"iterations must be at least the number of widths, got {total} iterations for {len(rungs)} widths; "
            "train for longer or give fewer widths"
        )
    return Stairs(rungs, tuple(-(-index * total // len(rungs)) for index in range(len(rungs))))


@dataclass(frozen=True)
class RandomBits:
    """One of `widths` for every `hold` steps, drawn by hashing the seed and the number of the draw."""

    widths: tuple[float, ...]
    seed: int
    hold: int

    def __call__(self, step: int) -> float:
        draw = f"{self.seed}:{check_step(step) // self.hold}".encode()
        # A hash rather than a generator: any step can be asked for in any order, and nothing needs to be saved.
        number = int.from_bytes(blake2b(draw, digest_size=8).digest(), "little")
        return self.widths[number % len(self.widths)]


def random_bits(widths: Sequence[float], seed: int = 0, hold: int = 1) -> Schedule:
    """Return a schedule that draws one of `widths`, evenly, and holds it for `hold` steps.

    The draw is a hash of ``seed`` and ``step // hold``: the same on every machine and every rank, untouched by the
    global random states, and the same after a resume. For draws that are independent between layers use
    ``per_layer(random_bits(widths), offset)`` with an offset larger than the run.

    Args:
        widths: what to draw from, each in [1, 32]; repeat one to draw it more often.
        seed: any whole number; another seed is another sequence.
        hold: steps that a drawn width is kept.

    Raises:
        ValueError: a width is outside [1, 32], `seed` is not whole, or `hold` is below 1.

    >>> bits = random_bits([2, 4, 8], seed=1, hold=2)
    >>> [int(bits(step)) for step in range(10)] == [int(bits(step)) for step in range(10)]
    True
    >>> bits(0) == bits(1)
    True
    """
    return RandomBits(check_widths(widths), check_whole(seed, "seed"), check_count(hold, "hold"))


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

    def __call__(self, step: int) -> float:
        now = check_step(step)
        width, start = self._slot(now)
        moved = now - start + 1
        if not self.smooth or moved >= self.transition_steps or start == 0:
            return width
        before, _ = self._slot(start - 1)
        return before + (width - before) * moved / self.transition_steps

    def _slot(self, step: int) -> tuple[float, int]:
        """The width of the slot that a step lies in, and the slot's first step."""
        cycle, position = divmod(step, self.cycle_length)
        count, length = len(self.widths), self.cycle_length
        if self.reverse and cycle % 2 == 1:
            # Mirrored, not merely swapped: where slots differ in length, so do the mirrored ones.
            entry = (length - 1 - position) * count // length
            start = (count - 1 - entry) * length // count
        else:
            entry = position * count // length
            start = -(-entry * length // count)
        width = self.widths[entry]
        if self.progressive:
            width = max(min(self.widths), width * self.progression_rate**cycle)
        return width, cycle * length + start


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
    transition = check_count(transition_steps, "transition_steps")
    rate = check_number(progression_rate, "progression_rate")
    if not 0 < rate <= 1:
        raise ValueError(
            f"progression_rate must be in (0, 1], got {rate!r}; below 1 the widths shrink from cycle to cycle"
        )
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
