"""Nested grids: the codes of every width are the top bits of the codes of a wider one, so that one file serves all.

With m the largest magnitude of a group of weights and ``t = w / m * 128``, the 8-bit code is ``floor(t) + 128``, from 0
to 255, and stands for ``m / 128 * (floor(t) + 1/2)``, the middle of its cell. Cutting off the last 8 - k bits of the
code gives that of k bits, ``floor(t / 2**(8 - k)) + 2**(k - 1)``, for the middle of a cell that is ``2**(8 - k)`` times
as wide. A grid with a value at zero cannot do that: rounding to 8 bits and then to fewer is not rounding to fewer
(TruncQuant, arXiv 2506.11431).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitdial.numerics.grid import is_off, row_count, row_kernels
from bitdial.numerics.quantizers import Quantizer, register
from bitdial.numerics.reference import UNQUANTIZED
from bitdial.numerics.steps import Number, readable
from bitdial.numerics.weights import StraightThrough, magnitude, widened

CODE_BITS = 8
"""Width of the codes that are cut."""

_HAIR = 1e-3


def whole(bits: Number) -> Number:
    """The width that a nested grid has at most: half a bit cannot be cut off. A hair below a whole number is that."""
    if isinstance(bits, Tensor):
        return (bits + _HAIR).floor()
    return float(math.floor(bits + _HAIR))


def cut(weight: Tensor, step: Tensor, bits: Tensor) -> Tensor:
    """The middles of the cells that weights lie in, at a width.

    Args:
        weight: any shape, floating dtype; values on the 8-bit grid give those whose codes are their top bits.
        step: width of an 8-bit cell, broadcasts against `weight`; 0 only where all weights are zero.
        bits: 0-dim float tensor; at 32 the weight comes back as it is.
    """
    width = readable(weight, bits)
    if not isinstance(width, Tensor) and width >= UNQUANTIZED:
        return weight
    wide = widened(weight)
    cell = 2.0 ** (CODE_BITS - whole(width))  # in steps; a power of two, so that dividing by it is exact
    most = 2.0 ** (whole(width) - 1)
    place = (wide / torch.where(step == 0, 1.0, step) / cell).floor().clamp(-most, most - 1)
    values = ((place + 0.5) * (cell * step)).to(weight.dtype)
    return torch.where(bits >= UNQUANTIZED, weight, values) if isinstance(width, Tensor) else values


def nested_step(weight: Tensor, per_channel: bool) -> Tensor:
    """Width of an 8-bit cell of a weight ``(out, ...)``: ``(out, 1, ...)`` or 0-dim."""
    return magnitude(weight, per_channel) / 2.0 ** (CODE_BITS - 1)


def nested_values(weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
    """`nested_weight` without autograd; the weight itself where nothing is to be done in eager mode."""
    if is_off(weight, bits):
        return weight
    native = row_kernels(weight)
    if native is not None:
        width = float(whole(bits.item()))
        cell, most = 2.0 ** (CODE_BITS - width), 2.0 ** (width - 1)
        return native.cut_rows(weight, row_count(weight, per_channel), 2.0 ** (CODE_BITS - 1), cell, most)
    return cut(weight, nested_step(weight, per_channel), bits)


def nested_weight(weight: Tensor, bits: Tensor, per_channel: bool = True) -> Tensor:
    """Weights on nested grids; the equations stand at the head of the module. Straight-through gradient.

    Args:
        weight: ``(out, ...)``, floating dtype.
        bits: 0-dim float tensor, rounded down to a whole number; at 32 the weight comes back as it is.
        per_channel: one range per output channel instead of one for the tensor.
    """
    return StraightThrough.apply(weight, bits, per_channel, nested_values)  # type: ignore[no-any-return]


def _step_at(weight: Tensor, bits: Number, per_channel: bool) -> Tensor:
    return nested_step(weight, per_channel) * 2.0 ** (CODE_BITS - whole(bits))


NESTED = register(Quantizer("nested", nested_weight, "channel", values=nested_values, step=_step_at, whole_bits=whole))
