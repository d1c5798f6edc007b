"""The unit curves: how a value moves from 0 to 1 while the progress z moves from 0 to 1.

Every smooth schedule is one of these, scaled by `blend`. A curve does not know what it moves: bits here, but any
other knob just as well (a cosine from g0 to g1 over T steps is ``blend(g0, g1, cosine(t / T))``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

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


def exponential(z: float) -> float:
    """Return ``1 - exp(-4 z)``: steep, then flat; it ends at 1 - exp(-4) = .982, not at 1."""
    return 1 - math.exp(-EXPONENT * z)


def rex(z: float) -> float:
    """Return ``1 - u / (.1 + .9 u)`` with ``u = 1 - z``: flat, then steep."""
    rest = 1 - z
    return 1 - rest / (1 - REX_BETA + REX_BETA * rest)
