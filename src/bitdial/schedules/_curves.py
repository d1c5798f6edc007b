"""Smooth curves and the cycles along them: cosine cycles, published CPT, and the ten profiles.

A unit curve says how a value moves from 0 to 1 while the progress z moves from 0 to 1. Every smooth schedule is one of
these, scaled by `blend`. A curve does not know what it moves: bits here, the learning rate in `bitdial.training`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from bitdial.schedules._checks import Schedule, check_count, check_period, check_range, check_step

Curve: TypeAlias = Callable[[float], float]

REX_BETA = 0.9
EXPONENT = 4.0


def blend(start: float, end: float, share: float) -> float:
    """Return ``start + (end - start) * share``."""
    return start + (end - start) * share


def linear(z: float) -> float:
    """Return ``z``."""
    return z


def cosine(z: float) -> float:
    """Return ``(1 + cos(pi z + pi)) / 2``, half a cosine wave.

    The phase is inside the cosine, as in the published code of CPT, rather than a minus sign before it, so that the
    rounding of a value half-way between two widths falls as it falls there.
    """
    return 0.5 * (1 + math.cos(math.pi * z + math.pi))


def falling_cosine(z: float) -> float:
    """Return ``(1 + cos(pi z)) / 2``: `cosine` from 1 to 0, exact at both ends, as learning rates fall."""
    return 0.5 * (1 + math.cos(math.pi * z))


def exponential(z: float) -> float:
    """Return ``1 - exp(-4 z)``: steep, then flat; it ends at 1 - exp(-4) = .982, not at 1."""
    return 1 - math.exp(-EXPONENT * z)


def rex(z: float) -> float:
    """Return ``1 - u / (.1 + .9 u)`` with ``u = 1 - z``: flat, then steep."""
    rest = 1 - z
    return 1 - rest / (1 - REX_BETA + REX_BETA * rest)


def _width(cycle: CosineCycle | Profile, share: float) -> float:
    # The sum may end one rounding error above `high`.
    bits = min(cycle.high, blend(cycle.low, cycle.high, share))
    return float(round(bits)) if cycle.rounded else bits


@dataclass(frozen=True)
class CosineCycle:
    """Half a cosine wave from `low` up to `high`, then a jump back, every `period` steps."""

    low: float
    high: float
    period: int
    rounded: bool

    def __call__(self, step: int) -> float:
        return _width(self, cosine(check_step(step) % self.period / self.period))


def cosine_cycle(low: float, high: float, period: int, *, rounded: bool = False) -> Schedule:
    """Return a schedule that rises from `low` towards `high` along half a cosine wave, then jumps back, for ever.

    With ``z = (t mod period) / period``::

        bits(t) = low + (high - low) / 2 * (1 + cos(pi z + pi))

    The first step of a cycle is exactly `low`; `high` itself is the limit at the cycle's end, which rounding reaches
    and the continuous form approaches.

    Args:
        low, high: the lowest and the highest width, in [1, 32].
        period: steps in a cycle.
        rounded: round to whole bits, halves to the even neighbour.

    Raises:
        ValueError: a width is outside [1, 32], `low` exceeds `high`, or `period` is not a whole number from 1 up.

    >>> bits = cosine_cycle(low=2, high=8, period=4)
    >>> [round(bits(step), 3) for step in range(5)]
    [2.0, 2.879, 5.0, 7.121, 2.0]
    """
    return CosineCycle(*check_range(low, high), check_count(period, "period"), bool(rounded))


def cpt(low: float, high: float, iterations: int, cycles: int) -> Schedule:
    """Return the schedule of cyclic precision training as published: `cycles` rounded cosine cycles.

    With ``T = iterations // cycles``::

        bits(t) = rint(low + (high - low) / 2 * (1 + cos(pi * (t mod T) / T + pi)))

    where rint rounds halves to the even neighbour. The width rises from `low` to `high`, then jumps back. Where
    `cycles` does not divide `iterations`, the steps left over begin one more cycle.

    Args:
        low, high: the lowest and the highest width, in [1, 32] (Bmin and Bmax).
        iterations: training steps.
        cycles: cycles over those steps (the paper's N; 32 on CIFAR).

    Raises:
        ValueError: a width is outside [1, 32], `low` exceeds `high`, or there are fewer iterations than cycles.

    Source: Fu et al., CPT: Efficient Deep Neural Network Training via Cyclic Precision, ICLR 2021, equation 1, and
    its published code.

    >>> bits = cpt(low=3, high=8, iterations=20, cycles=2)
    >>> [int(bits(step)) for step in range(12)]
    [3, 3, 3, 4, 5, 6, 6, 7, 8, 8, 3, 3]
    """
    return cosine_cycle(low, high, check_period(iterations, cycles), rounded=True)


Reflection: TypeAlias = Literal["none", "horizontal", "vertical"]


class _Form(NamedTuple):
    abbreviation: str
    curve: Curve
    reflection: Reflection


# The horizontal and the vertical reflection of a point-symmetric curve (cosine, linear) are one and the same.
_FORMS = {
    "cosine_repeated": _Form("CR", cosine, "none"),
    "cosine_triangular": _Form("CT", cosine, "vertical"),
    "linear_repeated": _Form("LR", linear, "none"),
    "linear_triangular": _Form("LT", linear, "vertical"),
    "exponential_repeated": _Form("ER", exponential, "none"),
    "exponential_triangular_horizontal": _Form("ETH", exponential, "horizontal"),
    "exponential_triangular_vertical": _Form("ETV", exponential, "vertical"),
    "rex_repeated": _Form("RR", rex, "none"),
    "rex_triangular_horizontal": _Form("RTH", rex, "horizontal"),
    "rex_triangular_vertical": _Form("RTV", rex, "vertical"),
}
_BY_ABBREVIATION = {form.abbreviation: name for name, form in _FORMS.items()}

PROFILES: tuple[str, ...] = tuple(_FORMS)
"""The names that `profile` takes; it takes the paper's abbreviations (CR, CT, LR, ...) too."""


@dataclass(frozen=True)
class Profile:
    """One of `PROFILES` between `low` and `high`, a cycle every `period` steps."""

    name: str
    low: float
    high: float
    period: int
    rounded: bool

    def __call__(self, step: int) -> float:
        cycle, position = divmod(check_step(step), self.period)
        return _width(self, self._share(cycle, position / self.period))

    def _share(self, cycle: int, z: float) -> float:
        _, curve, reflection = _FORMS[self.name]
        if reflection == "none" or cycle % 2 == 1:
            return curve(z)
        return curve(1 - z) if reflection == "horizontal" else 1 - curve(z)


def profile(name: str, low: float, high: float, iterations: int, cycles: int, rounded: bool = True) -> Schedule:
    """Return one of the ten schedules of Wolfe & Kyrillidis, by name.

    With ``T = iterations // cycles``, ``k = t // T`` and ``z = (t mod T) / T``, the width is
    ``low + (high - low) * s``, where g is the growth curve and s is

    ==============================  ============================================================
    ``*_repeated``                  s = g(z) in every cycle: it grows, then jumps back
    ``*_triangular_horizontal``     s = g(1 - z) for even k (mirrored in time), g(z) for odd k
    ``*_triangular_vertical``       s = 1 - g(z) for even k (upside down), g(z) for odd k
    ==============================  ============================================================

    ==================  =================================  ==================
    growth curve        g(z)                               in the paper
    ==================  =================================  ==================
    ``cosine_*``        (1 + cos(pi z + pi)) / 2           CR (CPT's), CT
    ``linear_*``        z                                  LR, LT
    ``exponential_*``   1 - exp(-4 z)                      ER, ETH, ETV
    ``rex_*``           1 - u / (.1 + .9 u), u = 1 - z     RR, RTH, RTV
    ==================  =================================  ==================

    Cosine and linear curves are symmetric about their middle: their reflections are one, ``*_triangular``; hence ten.
    A triangle is made of two cycles, falling first; an even number of cycles ends at `high`, an odd number at `low`.
    The exponential curve ends at 1 - exp(-4) = .982 of the way, as published: rounded widths reach `high` while
    ``high - low`` is below 27, continuous ones do not.

    Args:
        name: one of `PROFILES`, or the paper's abbreviation.
        low, high: the lowest and the highest width, in [1, 32].
        iterations: training steps.
        cycles: cycles over those steps; steps left over begin one more.
        rounded: round to whole bits, halves to the even neighbour.

    Raises:
        ValueError: the name is unknown, a width is outside [1, 32], `low` exceeds `high`, or there are fewer
            iterations than cycles.

    Source: Wolfe & Kyrillidis, Better Schedules for Low Precision Training of Deep Neural Networks, arXiv
    2403.02243; the constants 4 and .9, and the order within a triangle, are those of the authors' published code.

    >>> bits = profile("linear_triangular", low=2, high=8, iterations=12, cycles=2)
    >>> [int(bits(step)) for step in range(12)]
    [8, 7, 6, 5, 4, 3, 2, 3, 4, 5, 6, 7]
    >>> profile("RTH", 3, 8, iterations=64, cycles=8) == profile("rex_triangular_horizontal", 3, 8, 64, 8)
    True
    """
    return Profile(_full_name(name), *check_range(low, high), check_period(iterations, cycles), bool(rounded))


def _full_name(name: str) -> str:
    if isinstance(name, str):
        if name in _FORMS:
            return name
        if name.upper() in _BY_ABBREVIATION:
            return _BY_ABBREVIATION[name.upper()]
    nearest = difflib.get_close_matches(str(name), PROFILES, n=1, cutoff=0.5)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
    raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {name!r}{hint or '; pick one of these'}")
