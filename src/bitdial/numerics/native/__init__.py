"""Native kernels for fake quantization on a CPU, where the machine has a C compiler.

A pass over a large activation costs what its memory traffic costs, and PyTorch has no operator that rounds to a grid in
one pass at full speed. `kernels.c` has, and `weights.c` takes a quantizer of weights in one pass, or in few. They are
compiled at their first use (in less than a second, kept in the user's cache), tried on known numbers, and left alone if
anything about that goes wrong: every caller has a path of PyTorch operators that gives the same values.
``BITDIAL_NATIVE=0`` in the environment keeps it out. `unavailable` says why there are none.

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
from bitdial.numerics.native.trial import gives_right_values

_FLOAT, _INT, _SIZE, _POINTER = ctypes.c_float, ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
_SIGNATURES: dict[str, list[Any]] = {
    "bitdial_min_max": [_POINTER, _SIZE, _POINTER, _INT],
    "bitdial_snap": [_POINTER, _SIZE, _FLOAT, _FLOAT, _FLOAT, _FLOAT, _FLOAT, _POINTER, _INT],
    "bitdial_snap_rows": [_POINTER, _SIZE, _SIZE, _FLOAT, _FLOAT, _FLOAT, _POINTER, _INT],
    "bitdial_ternarize": [_POINTER, _SIZE, _SIZE, _INT, _FLOAT, *[_POINTER] * 4, _INT],
    "bitdial_ternarize_gradient": [
        _POINTER,
        _POINTER,
        _SIZE,
        _SIZE,
        _POINTER,
        _FLOAT,
        _POINTER,
        _POINTER,
        _FLOAT,
        *[_POINTER] * 3,
        _INT,
    ],
    "bitdial_steps": [_POINTER, _SIZE, _SIZE, *[_POINTER] * 3, _INT],
    "bitdial_steps_gradient": [
        _POINTER,
        _POINTER,
        _SIZE,
        _SIZE,
        _POINTER,
        _POINTER,
        _INT,
        _FLOAT,
        _POINTER,
        _POINTER,
        _INT,
    ],
    "bitdial_mean_squares": [_POINTER, _SIZE, _SIZE, _POINTER, _INT],
    "bitdial_cut_rows": [_POINTER, _SIZE, _SIZE, _FLOAT, _FLOAT, _FLOAT, _POINTER, _INT],
    "bitdial_rotate": [_POINTER, _SIZE, _SIZE, _SIZE, _FLOAT, _POINTER, _INT],
    "bitdial_dorefa": [_POINTER, _SIZE, _SIZE, _FLOAT, _FLOAT, _POINTER, _POINTER, _INT],
    "bitdial_dorefa_gradient": [_POINTER, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _INT],
}
_CODES = _FLOAT * 7

Codes = tuple[float, float, float, float, float, float, float]
"""Lowest and highest code and offset of a grid; the ends between which a weight, in steps, has a gradient; and there
the shares of the code and of the weight in the gradient by the step."""


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

    def snap_rows(self, weight: Tensor, rows: int, last: int, half: float) -> Tensor:
        """A symmetric grid with ``last + 1`` values for each of `rows` equal parts of a weight."""
        tiny, out = torch.finfo(torch.float32).tiny, torch.empty_like(weight)
        self._rows("snap_rows", rows, (weight,), last, half, tiny, out)
        return out

    def ternarize(
        self, weight: Tensor, rows: int, share: float, scales: tuple[Tensor, Tensor] | str
    ) -> tuple[Tensor, Tensor]:
        """Three values for each row, and the row's largest magnitude (1 for a row of zeros), ``(rows,)``.

        The threshold is `share` of that magnitude where `scales` are a positive and a negative one, ``(rows,)`` each,
        whose magnitudes count; or of the mean magnitude, and the scale is that mean (``"mean"``) or the mean of what is
        above the threshold (``"above"``). A share of 0 with ``"mean"`` leaves two values: zero counts as positive.
        """
        out, sizes = torch.empty_like(weight), weight.new_empty(rows)
        fit, pair = (("mean", "above").index(scales) + 1, (None, None)) if isinstance(scales, str) else (0, scales)
        self._rows("ternarize", rows, (weight,), fit, share, *pair, sizes, out)
        return out, sizes

    def ternarize_gradient(
        self,
        weight: Tensor,
        gradient: Tensor,
        sizes: Tensor,
        share: float,
        scales: tuple[Tensor, Tensor],
        factor: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of `ternarize` with given scales: by the weight, and by either scale, times `factor`."""
        out, ups, downs = torch.empty_like(weight), torch.empty_like(sizes), torch.empty_like(sizes)
        both, rest = (weight, gradient), (*scales, factor, out, ups, downs)
        self._rows("ternarize_gradient", sizes.numel(), both, sizes, share, *rest)
        return out, ups, downs

    def steps(self, weight: Tensor, steps: Tensor, codes: Codes) -> Tensor:
        """The nearest values of a grid for each row, whose step is the magnitude of the one that is given."""
        out, numbers = torch.empty_like(weight), _CODES(*codes)
        self._rows("steps", steps.numel(), (weight,), steps, ctypes.addressof(numbers), out)
        return out

    def steps_gradient(
        self, weight: Tensor, gradient: Tensor, steps: Tensor, codes: Codes, strict: bool, factor: float
    ) -> tuple[Tensor, Tensor]:
        """Gradients of `steps`: by the weight, and by the step, times `factor`, ``(rows,)``."""
        out, by_step, numbers = torch.empty_like(weight), torch.empty_like(steps), _CODES(*codes)
        rest = (ctypes.addressof(numbers), strict, factor, out, by_step)
        self._rows("steps_gradient", steps.numel(), (weight, gradient), steps, *rest)
        return out, by_step

    def mean_squares(self, weight: Tensor, rows: int) -> Tensor:
        """The mean square of each row, ``(rows,)``."""
        means = weight.new_empty(rows)
        self._rows("mean_squares", rows, (weight,), means)
        return means

    def cut_rows(self, weight: Tensor, rows: int, last: float, cell: float, most: float) -> Tensor:
        """The middle of the cell that each value lies in, ``2 * most`` cells of `cell` steps for each row.

        A step is the largest magnitude of the row over `last`.
        """
        out = torch.empty_like(weight)
        self._rows("cut_rows", rows, (weight,), last, cell, most, out)
        return out

    def rotate(self, x: Tensor, size: int, inner: int) -> Tensor:
        """The orthonormal Walsh-Hadamard transform of x, in its memory ``(-1, size, inner)``, over the middle."""
        out = torch.empty_like(x)
        self._library.bitdial_rotate(
            x.data_ptr(), x.numel() // (size * inner), size, inner, size**-0.5, out.data_ptr(), torch.get_num_threads()
        )
        return out

    def dorefa(self, weight: Tensor, rows: int, last: int, half: float) -> tuple[Tensor, Tensor]:
        """DoReFa's weights for each row, and the row's mean magnitude over its largest tanh, ``(rows,)``."""
        out, slopes = torch.empty_like(weight), weight.new_empty(rows)
        self._rows("dorefa", rows, (weight,), last, half, slopes, out)
        return out, slopes

    def dorefa_gradient(self, weight: Tensor, gradient: Tensor, slopes: Tensor) -> Tensor:
        """``gradient * (1 - tanh(weight)**2) * slopes``, one slope for each row."""
        out = torch.empty_like(weight)
        self._rows("dorefa_gradient", slopes.numel(), (weight, gradient), slopes, out)
        return out

    def _rows(self, name: str, rows: int, weights: tuple[Tensor, ...], *arguments: Any) -> None:
        """Call what takes a weight, and what is laid out alike, as `rows` equal parts of their memory."""
        passed = [value.data_ptr() if isinstance(value, Tensor) else value for value in (*weights, rows)]
        passed += [weights[0].numel() // rows]
        passed += [value.data_ptr() if isinstance(value, Tensor) else value for value in arguments]
        getattr(self._library, f"bitdial_{name}")(*passed, torch.get_num_threads())


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
    return found if gives_right_values(found) else "they gave wrong values when they were tried"


def is_dense(x: Tensor) -> bool:
    """Whether the values of `x` fill their memory without gaps or overlaps, in whatever order."""
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
