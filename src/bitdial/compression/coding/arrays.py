"""What the parts of a codec are handed, made sure of: whole numbers, and tensors of floating-point numbers."""

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
    if array.dtype.kind == "f":
        array = array.astype(np.float64)  # the largest number of 32 bits is not one of float32
    wrong = ~((array >= _INT32.min) & (array <= _INT32.max) & (array == np.rint(array)))
    if wrong.any():
        place = np.argwhere(wrong)[0].tolist()
        raise BitdialError(
            f"{name} must be whole numbers of 32 bits, got {array[wrong][0]} at {place}; round them first"
        )
    return array.astype(np.int32)


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Refuse what is no whole number from `least` to `most`."""
    sound = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not sound or value < least or (most is not None and value > most):  # type: ignore[operator]
        ends = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise BitdialError(f"{name} must be a whole number {ends}, got {value!r}")


def check_floating(name: str, values: object) -> None:
    """Refuse what is no tensor of floating-point numbers of 16 bits or more."""
    if not isinstance(values, Tensor) or not values.is_floating_point() or values.element_size() < 2:
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise BitdialError(f"{name} must be a tensor of floating-point numbers, got {got}; convert it with .float()")
