"""Native kernels for fake quantization on a CPU, where the machine has a C compiler.

A pass over a large activation costs what its memory traffic costs, and PyTorch has no operator that rounds to a grid in
one pass at full speed. `kernels.c` has; it is compiled at its first use (in less than a second, kept in the user's
cache), tried on known numbers, and left alone if anything about that goes wrong: every caller has a path of PyTorch
operators that gives the same values. ``BITDIAL_NATIVE=0`` in the environment keeps it out. `unavailable` says why there
are none.

The threads are those of PyTorch: the kernels use the OpenMP runtime that PyTorch has loaded.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
from typing import Any

import torch
from torch import Tensor

from bitdial.numerics.native.build import UnavailableError, library

_FLOAT, _INT, _SIZE, _POINTER = ctypes.c_float, ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
_SIGNATURES: dict[str, list[Any]] = {
    "bitdial_min_max": [_POINTER, _SIZE, _POINTER, _INT],
    "bitdial_snap": [_POINTER, _SIZE, _FLOAT, _FLOAT, _FLOAT, _FLOAT, _FLOAT, _POINTER, _INT],
    "bitdial_snap_rows": [_POINTER, _SIZE, _SIZE, _FLOAT, _FLOAT, _FLOAT, _POINTER, _INT],
}


class Kernels:
    """The compiled functions. Tensors are float32 on the CPU, dense, and those of one call have the same strides."""

    def __init__(self, path: str) -> None:
        # PyDLL keeps the interpreter's lock: the calls are short, and letting go of it costs more than it is worth.
        self._library = ctypes.PyDLL(path)
        for name, arguments in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, None

    def min_max(self, x: Tensor) -> tuple[float, float]:
        """Smallest and largest value of a tensor that is not empty; both NaN where it has one."""
        out = (_FLOAT * 2)()
        self._library.bitdial_min_max(x.data_ptr(), x.numel(), ctypes.addressof(out), torch.get_num_threads())
        return out[0], out[1]

    def snap(self, x: Tensor, low: float, high: float, step: float, *, clip: bool, out: Tensor) -> None:
        """``out = round((x - low) / step) * step + low``."""
        floor, ceiling = (low, high) if clip else (-math.inf, math.inf)
        self._library.bitdial_snap(
            x.data_ptr(), x.numel(), floor, ceiling, low, step, 1.0 / step, out.data_ptr(), torch.get_num_threads()
        )

    def snap_rows(self, weight: Tensor, rows: int, last: int, half: float, out: Tensor) -> None:
        """A symmetric grid with ``last + 1`` values for each of `rows` equal parts of a contiguous weight."""
        tiny = torch.finfo(torch.float32).tiny
        self._library.bitdial_snap_rows(
            weight.data_ptr(), rows, weight.numel() // rows, last, half, tiny, out.data_ptr(), torch.get_num_threads()
        )


@functools.cache
def kernels() -> Kernels | None:
    """The kernels, or None where they cannot be had, or do not give what they should."""
    found = _found()
    return found if isinstance(found, Kernels) else None


def unavailable() -> str | None:
    """Why this machine has no kernels, in words; None where it has them."""
    found = _found()
    return found if isinstance(found, str) else None


@functools.cache
def _found() -> Kernels | str:
    """The kernels, or why there are none."""
    if os.environ.get("BITDIAL_NATIVE", "1") in ("", "0"):
        return "they are switched off: BITDIAL_NATIVE is 0"
    try:
        found = Kernels(str(library()))
    except (UnavailableError, OSError, AttributeError) as error:
        return str(error)
    return found if _sound(found) else "they gave wrong values when they were tried"


def is_dense(x: Tensor) -> bool:
    """Whether the values of `x` fill their memory without gaps or overlaps, in whatever order."""
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


@torch.no_grad()
def _sound(found: Kernels) -> bool:
    """Try every kernel on numbers whose results are known: enough to fill vectors, with some to spare."""
    # Whatever torch's default device and dtype are.
    x = torch.arange(-33, 34, dtype=torch.float32, device="cpu") / 8  # with ties
    out = torch.empty_like(x)
    found.snap(x, -3.0, 4.0, 0.5, clip=True, out=out)
    good = torch.equal(out, ((x.clamp(-3.0, 4.0) + 3.0) * 2.0).round() * 0.5 - 3.0)
    found.snap(x, -4.125, 4.125, 0.5, clip=False, out=out)
    good = good and torch.equal(out, ((x + 4.125) * 2.0).round() * 0.5 - 4.125) and found.min_max(x) == (-4.125, 4.125)
    rows = torch.stack([x, x * 2.0])
    snapped = torch.empty_like(rows)
    found.snap_rows(rows, 2, 3, 0.5, snapped)
    steps = rows.amax(1, keepdim=True) / 1.5
    return good and torch.equal(snapped, ((rows * steps.reciprocal() - 0.5).round() + 0.5) * steps)
