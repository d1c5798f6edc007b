"""The numbers that an augmentation takes, checked once and refused in one sentence."""

from __future__ import annotations

import math
from numbers import Real

from bitdial.errors import BitdialError

# torch draws Beta in float32: further out its draws are wrong (at 1e-6 every one is .5).
LEAST_ALPHA, GREATEST_ALPHA = 0.01, 10_000.0


def check_probability(name: str, value: float) -> float:
    """Return `value` as a float, or refuse what is no number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise BitdialError(f"{name} must be a probability in [0, 1], got {value!r}; 0 switches it off")
    return float(value)


def check_alpha(name: str, value: float) -> float:
    """Return `value` as a float, or refuse what Beta(alpha, alpha) cannot be drawn with."""
    if isinstance(value, bool) or not isinstance(value, Real) or not LEAST_ALPHA <= value <= GREATEST_ALPHA:
        raise BitdialError(
            f"{name} must be a number in [{LEAST_ALPHA}, {GREATEST_ALPHA:g}], got {value!r}; it is the alpha of "
            "Beta(alpha, alpha): 1.0 is usual, less mixes less"
        )
    return float(value)


def check_switch(name: str, value: bool) -> None:
    """Refuse a flag that is not True or False, such as a strength meant for another argument."""
    if not isinstance(value, bool):
        raise BitdialError(f"{name} must be True or False, got {value!r}; its strength is another argument")


def check_range(name: str, value: tuple[float, float], least: float, greatest: float = math.inf) -> None:
    """Refuse what is not a pair `(low, high)` of finite numbers with `least <= low <= high <= greatest`."""
    sound = isinstance(value, tuple) and len(value) == 2 and all(isinstance(each, Real) for each in value)
    if not sound or not least <= value[0] <= value[1] <= greatest or not math.isfinite(value[1]):
        limits = f"[{least:g}, {greatest:g}]" if math.isfinite(greatest) else f"{least:g} and up"
        raise BitdialError(f"{name} must be a pair (low, high) with low <= high, in {limits}, got {value!r}")
