"""Widths that go one way: down a ladder, or progressively up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from bitdial.schedules._checks import check_count, check_widths
from bitdial.schedules._stairs import Stairs, slot_starts
from bitdial.schedules._types import Schedule


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
    return _climb(rungs, iterations)


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
    return _climb(rungs, iterations)


def _climb(rungs: tuple[float, ...], iterations: int) -> Stairs:
    total = check_count(iterations, "iterations")
    if total < len(rungs):
        raise ValueError(
            f"iterations must be at least the number of widths, got {total} iterations for {len(rungs)} widths; "
            "train for longer or give fewer widths"
        )
    return Stairs(rungs, slot_starts(len(rungs), total))
