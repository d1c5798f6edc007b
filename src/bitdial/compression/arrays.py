"""Whole numbers out of whatever holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bitdial.errors import BitdialError

_INT32 = np.iinfo(np.int32)


def whole_numbers(name: str, values: Any) -> NDArray[Any]:
    """Values as an array of integers: int32, or narrower where they came so.

    Floating-point numbers are taken where they are whole, so that NaN and what was not rounded yet is noticed here.

    Raises:
        BitdialError: they are no numbers, not whole, or do not fit into 32 bits.
    """
    try:
        if isinstance(values, Tensor):
            plain = values.detach().cpu()
            values = (plain.float() if plain.is_floating_point() and plain.element_size() < 4 else plain).numpy()
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise BitdialError(
            f"{name} must be an array of whole numbers, got {type(values).__name__} ({error})"
        ) from error
    if array.dtype.kind not in "iuf":
        raise BitdialError(f"{name} must be whole numbers, got {array.dtype} ({type(values).__name__})")
    if array.dtype.kind in "iu" and (array.dtype.itemsize < 4 or array.dtype == np.int32):
        return array
    wrong = ~((array >= _INT32.min) & (array <= _INT32.max))
    if array.dtype.kind == "f":
        wrong |= array != np.rint(array)
    if wrong.any():
        place = [int(axis[0]) for axis in np.nonzero(wrong)]
        raise BitdialError(
            f"{name} must be whole numbers of 32 bits, got {array[wrong][0]} at {place}; round them first"
        )
    return array.astype(np.int32)
