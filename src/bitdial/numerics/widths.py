"""What a bit-width is: a real number from 1 to 32, and the number of levels that it stands for."""

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
    """Number of values on the grid of a width: ``round(2**bits)``, at least 2.

    Args:
        bits: width, any shape, any real value of at least 1 (fractional widths are legal: 1.58 bits are 3 levels).

    Returns:
        float32 tensor of the same shape holding whole numbers.
    """
    return torch.exp2(bits.float()).round().clamp_min(2.0)


def level_count(bits: float) -> int:
    """`levels` of one width, as a number."""
    return max(2, round(math.pow(2.0, bits)))


def check_bits(bits: object, where: str = "") -> float:
    """Return `bits` as a float, or refuse it.

    Args:
        bits: a width: a real number from 1 to 32. 32 means unquantized; 1 to 16 are the widths that are meant for use,
            those between 16 and 32 are there for transitions that pass through them.
        where: what the width was meant for, for the message (``'layer "conv1"'``).

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
