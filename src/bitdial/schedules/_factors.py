"""A learning-rate factor for a width."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from bitdial.schedules._checks import check_bits, check_number
from bitdial.schedules._curves import blend


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
