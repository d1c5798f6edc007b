"""Numbers that fall once over a run, and are no widths: gamma, which keeps two losses in balance, is one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bitdial.schedules._checks import Schedule, check_count, check_list, check_number, check_rising, check_step
from bitdial.schedules._curves import blend, falling_cosine
from bitdial.schedules._stairs import Stairs


@dataclass(frozen=True)
class Decay:
    """From `initial` at step 0 to `final` at step `total` and on, along a line or half a cosine wave."""

    initial: float
    final: float
    total: int
    cosine: bool

    def __call__(self, step: int) -> float:
        share = min(check_step(step) / self.total, 1.0)
        kept = falling_cosine(share) if self.cosine else 1 - share
        return self.initial * kept + self.final * (1 - kept)  # exact at both ends, which `blend` is not


def linear_decay(initial: float, final: float, total: int) -> Schedule:
    """Return the schedule that goes straight from `initial` at step 0 to `final` at step `total`, and stays there.

    Args:
        initial, final: the values at the ends, finite.
        total: steps (or epochs) from one to the other.

    Raises:
        ValueError: a value is not finite, or `total` is not a whole number from 1 up.

    >>> gamma = linear_decay(0.006, 0.001, total=3000)
    >>> [round(gamma(epoch), 5) for epoch in (0, 750, 2250, 3000, 9000)]
    [0.006, 0.00475, 0.00225, 0.001, 0.001]
    """
    return Decay(check_number(initial, "initial"), check_number(final, "final"), check_count(total, "total"), False)


def cosine_decay(initial: float, final: float, total: int) -> Schedule:
    """Return the schedule that goes from `initial` to `final` along half a cosine wave, and stays there.

    ``final + (initial - final) / 2 * (1 + cos(pi t / total))``; arguments and errors are those of `linear_decay`.

    >>> gamma = cosine_decay(0.006, 0.001, total=3000)
    >>> [round(gamma(epoch), 7) for epoch in (0, 750, 1500, 2250, 3000)]
    [0.006, 0.0052678, 0.0035, 0.0017322, 0.001]
    """
    return Decay(check_number(initial, "initial"), check_number(final, "final"), check_count(total, "total"), True)


def step_decay(initial: float, factor: float, steps: Iterable[int]) -> Stairs:
    """Return the schedule that starts at `initial` and is multiplied with `factor` at each of `steps`.

    Args:
        initial: the value before the first of them, finite.
        factor: finite, from 0 up.
        steps: rising, from 1 up; at each of them the new value is in force.

    Raises:
        ValueError: a number is out of bounds, or the steps do not rise.

    >>> gamma = step_decay(0.006, 0.5, steps=[1000, 2000])
    >>> [gamma(epoch) for epoch in (999, 1000, 2000)]
    [0.006, 0.003, 0.0015]
    """
    start, rate = check_number(initial, "initial"), check_number(factor, "factor", least=0)
    given = check_list(steps, "steps", "[1000, 2000]")
    drops = tuple(check_count(step, f"steps[{index}]") for index, step in enumerate(given))
    check_rising(drops, "steps")
    return Stairs(tuple(start * rate**number for number in range(len(drops) + 1)), (0, *drops))


@dataclass(frozen=True)
class ThreePhases:
    """Up to 1.2 times `initial` over a tenth of `total`, down from there up to two thirds of it, then slowly down."""

    initial: float
    total: int
    continuous: bool

    def __call__(self, step: int) -> float:
        now, total = min(check_step(step), self.total), self.total
        # In whole numbers up to the last division, so that a step on a boundary lies in the phase that begins there.
        if 10 * now < total:
            return self.initial * (1 + 2 * now / total)
        if 3 * now < 2 * total:
            return 1.2 * self.initial * (1 - 0.5 * (30 * now - 3 * total) / (17 * total))
        progress = (3 * now - 2 * total) / total
        if self.continuous:
            return self.initial * blend(0.6, 0.49, progress)
        return 0.7 * self.initial * (1 - 0.3 * progress)


def hpcm(initial: float, total: int, *, continuous: bool = False) -> Schedule:
    """Return the three phases of a long training of an HPCM codec: warm-up, scaling, refinement.

    With g = `initial`, T = `total` and p the progress inside a phase, from 0 to 1:

    ==========  =====================  ========================================
    phase       steps                  value
    ==========  =====================  ========================================
    warm-up     0 to T / 10            ``g (1 + .2 p)``
    scaling     T / 10 to 2 T / 3      ``1.2 g (1 - .5 p)``
    refinement  2 T / 3 to T           ``.7 g (1 - .3 p)``, .49 g from there on
    ==========  =====================  ========================================

    The value jumps up where refinement begins, from .6 g to .7 g; with `continuous` it goes straight from .6 g to the
    same end.

    Args:
        initial: the value at step 0, finite.
        total: steps (or epochs); at 3000 the phases end at 300, 2000 and 3000.
        continuous: do not jump.

    Raises:
        ValueError: `initial` is not finite, or `total` is not a whole number from 1 up.

    >>> gamma = hpcm(0.006, total=3000)
    >>> [round(gamma(epoch), 7) for epoch in (0, 150, 300, 1150, 1999, 2000, 3000)]
    [0.006, 0.0066, 0.0072, 0.0054, 0.0036021, 0.0042, 0.00294]
    """
    return ThreePhases(check_number(initial, "initial"), check_count(total, "total"), bool(continuous))
