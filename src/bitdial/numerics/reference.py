"""What a bit-width is, and its grids in their plainest form.

A width is a real number from 1 to 32 and stands for a number of levels. The grids are written without in-place
arithmetic and without branches: what every fast path is tested against.
"""

from __future__ import annotations

import math
import reprlib
from numbers import Real

import torch
from torch import Tensor

from bitdial.errors import BitdialError

UNQUANTIZED = 32.0
"""The width that means "leave the values as they are"."""


def levels(bits: Tensor) -> Tensor:
    """Number of values on the grid of a width: ``round(2**bits)``, at least 2; float32, in the shape of `bits`.

    Fractional widths are legal: 1.58 bits are 3 levels.
    """
    return torch.exp2(bits.float()).round().clamp_min(2.0)


def level_count(bits: float) -> int:
    """`levels` of one width, as a number."""
    return max(2, round(math.pow(2.0, bits)))


def check_bits(bits: object, where: str = "") -> float:
    """Return `bits` as a float, or refuse it; `where` says in the message what it was meant for, ``'layer "conv1"'``.

    32 means unquantized; 1 to 16 are the widths that are meant for use, those between are there for transitions.

    Raises:
        BitdialError: `bits` is not a number, or outside [1, 32].
    """
    place = f" for {where}" if where else ""
    advice = "give a width from 1 to 16, or 32 for unquantized"
    if isinstance(bits, bool) or not isinstance(bits, Real):
        raise BitdialError(f"bits must be a number in [1, 32], got {reprlib.repr(bits)}{place}; {advice}")
    value = float(bits)
    if not (math.isfinite(value) and 1.0 <= value <= UNQUANTIZED):
        raise BitdialError(f"bits must be in [1, 32], got {bits!r}{place}; {advice}")
    return value


def step_size(low: Tensor, high: Tensor, bits: Tensor) -> Tensor:
    """Distance between two neighbours of the grid with ``levels(bits)`` values from `low` to `high`.

    ``(high - low) / (levels - 1)``, computed so that it neither overflows nor becomes zero (a constant tensor has
    ``low == high``; its grid has one distinct value and the smallest normal float for a step).
    """
    last = levels(bits) - 1
    return (high / last - low / last).clamp_min(torch.finfo(torch.float32).tiny)


def snap_reference(x: Tensor, low: Tensor, high: Tensor, bits: Tensor, *, clip: bool = False) -> Tensor:
    """Nearest value on the uniform grid from `low` to `high`: ``low + step * round((x - low) / step)``.

    See `bitdial.numerics.snap` for the arguments.
    """
    low, high = low.float(), high.float()
    step = step_size(low, high, bits)
    wide = x.float()
    inside = torch.minimum(torch.maximum(wide, low), high) if clip else wide
    snapped = ((inside - low) * step.reciprocal()).round() * step + low
    return torch.where(bits >= UNQUANTIZED, x, snapped.to(x.dtype))  # x, not wide: float64 stays exact


def snap_symmetric_reference(x: Tensor, magnitude: Tensor, bits: Tensor) -> Tensor:
    """Nearest value on the grid with ``levels(bits)`` values from ``-magnitude`` to ``+magnitude``.

    An even number of levels has no zero: the values are ``step * (k + 1/2)``; an odd number has: ``step * k``.
    See `bitdial.numerics.snap_symmetric` for the arguments.
    """
    magnitude = magnitude.float()
    step = step_size(-magnitude, magnitude, bits)
    half = torch.remainder((levels(bits) - 1) / 2, 1.0)
    wide = x.float()
    snapped = ((wide * step.reciprocal() - half).round() + half) * step
    # A magnitude of zero leaves nothing but zero on the grid.
    snapped = torch.where(magnitude > 0, snapped, torch.zeros_like(snapped))
    return torch.where(bits >= UNQUANTIZED, x, snapped.to(x.dtype))  # x, not wide: float64 stays exact
