"""Quantizers that fit their grid anew to whatever they are given: QuEST, the sign, and the range of one token."""

from __future__ import annotations

import math
from bisect import bisect
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.numerics.grid import is_traced, may_read, row_count, row_kernels, unless_off
from bitdial.numerics.learned_step import level_number
from bitdial.numerics.quantizers import ActivationQuantizer, Quantizer, register, register_activations
from bitdial.numerics.reference import snap_reference
from bitdial.numerics.steps import Codes, Number, readable, stepped
from bitdial.numerics.weights import (
    TERNARY_BITS,
    StraightThrough,
    group_dims,
    mean_magnitude,
    normalized,
    sum_type,
    widened,
)

HADAMARD_BLOCK = 128
"""Features that are rotated together at most, of QuEST."""

GAUSSIAN_ENDS = {
    1.0: 0.7978846,
    TERNARY_BITS: 1.2240064,
    2.0: 1.4935300,
    3.0: 2.0510681,
    4.0: 2.5140046,
    5.0: 2.9161512,
    6.0: 3.2779849,
    7.0: 3.6110972,
    8.0: 3.9222045,
    10.0: 4.4937651,
    12.0: 5.0131217,
    16.0: 5.9382433,
}
"""Width -> end of the uniform grid from -a to a with the smallest squared error for a standard normal variable."""


def gaussian_end(bits: Number) -> Number:
    """The end of the grid of a width, in units of the root mean square; linear between those that are tabulated."""
    known, ends = list(GAUSSIAN_ENDS), list(GAUSSIAN_ENDS.values())
    slopes = [(b - a) / (y - x) for (x, y), (a, b) in zip(pairwise(known), pairwise(ends), strict=True)]
    if not isinstance(bits, Tensor):
        place = max(min(bisect(known, bits) - 1, len(slopes) - 1), 0)
        return ends[place] + slopes[place] * (bits - known[place])
    end = torch.full_like(bits, ends[0])
    for (start, stop), slope in zip(pairwise(known), slopes, strict=True):
        end = end + (bits.clamp(start, stop) - start) * slope
    return end


def quest_step(weight: Tensor, bits: Tensor | float, per_channel: bool = True) -> Tensor:
    """Distance of two values of the grid of `quest_values`: ``(out,)`` or ``(1,)``, in float32 at least."""
    wide, native = widened(weight), row_kernels(weight)
    if native is not None and weight.numel():
        mean = native.mean_squares(weight, row_count(weight, per_channel))
    else:
        mean = wide.square().mean(group_dims(weight, per_channel), dtype=sum_type(wide)).to(wide.dtype).view(-1)
    end = 2 * gaussian_end(bits) / (level_number(bits) - 1)
    return (mean.sqrt() * end).clamp_min(torch.finfo(wide.dtype).tiny)


def _quest_codes(bits: Number) -> Codes:
    """As many levels below zero as above; a value is trusted up to half a step beyond the outermost."""
    count = level_number(bits)
    end, odd = (count - 1) / 2, count % 2
    return Codes(-end, end, (1 - odd) / 2, -count / 2, count / 2)


def quest_values(x: Tensor, bits: Tensor, per_channel: bool = True) -> Tensor:
    """QuEST's projection: the uniform grid whose end has the smallest squared error for normal values of this size.

    Source: Panferov et al., QuEST: Stable Training of LLMs with 1-Bit Weights and Activations, arXiv 2502.05003: the
    end is ``c(b) * sqrt(mean x**2)``, see `GAUSSIAN_ENDS`; a value passes its gradient where it is trusted, that is
    not further from its grid value than half a step.

    Args:
        x: ``(out, ...)``, floating dtype.
        bits: 0-dim float tensor; at 32 the values come back as they are.
        per_channel: a grid for each entry of the first dimension, or one for all.
    """
    if x.numel() == 0:
        return x.view_as(x)
    width = readable(x, bits)
    return stepped(x, quest_step(x.detach(), width, per_channel), _quest_codes(width), width)


def _hadamard_of(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = torch.ones(1, 1, dtype=dtype, device=device)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)


_kept = cache(_hadamard_of)


def hadamard_block(features: int) -> int:
    """How many features are rotated together: the greatest power of two that divides them, at most 128."""
    return min(features & -features, HADAMARD_BLOCK) if features else 1


def rotated(x: Tensor, dim: int, size: int) -> Tensor:
    """Rotate a dimension by the Walsh-Hadamard matrix ``H / sqrt(n)`` in blocks of n = `size`; twice gives x again."""
    if x.numel() == 0:
        return x
    if is_traced():
        return _rotated(x, dim, size)
    return _Rotated.apply(x, dim, size)  # type: ignore[no-any-return]


class _Rotated(torch.autograd.Function):
    """`rotated`, which is its own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, size: int) -> Tensor:
        ctx.how = dim, size
        native = row_kernels(x)
        return _rotated(x, dim, size) if native is None else native.rotate(x, size, x.stride(dim))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        return _Rotated.apply(gradients[0], *ctx.how), None, None


def _rotated(x: Tensor, dim: int, size: int) -> Tensor:
    blocks = x.movedim(dim, -1)
    blocks = blocks.reshape(*blocks.shape[:-1], -1, size)
    if may_read(x):  # in the order of the native kernels, and laid out alike: the same bits with and without them
        turned = _sums_and_differences(blocks) * size**-0.5
        return torch.empty_like(x).copy_(turned.reshape(x.movedim(dim, -1).shape).movedim(-1, dim))
    with torch.inference_mode(False):
        hadamard = _hadamard_of if torch.compiler.is_compiling() else _kept
        matrix = hadamard(size, x.dtype, x.device)
    return (blocks @ matrix).reshape(x.movedim(dim, -1).shape).movedim(-1, dim)


def _sums_and_differences(x: Tensor) -> Tensor:
    """The fast Walsh-Hadamard transform of the last dimension."""
    shape, reach = x.shape, 1
    while reach < shape[-1]:
        pairs = x.reshape(*shape[:-1], -1, 2, reach)
        one, other = pairs.unbind(-2)
        x, reach = torch.stack([one + other, one - other], -2), 2 * reach
    return x.reshape(shape)


class _PerToken(nn.Module):
    """Activations on a grid of each token's own; of each example where a layer's features have places in space.

    Args:
        feature_dims: how many of the last dimensions are one token: 1 for linear layers, more for convolutions.
    """

    def __init__(self, feature_dims: int = 1, **_: Any) -> None:
        super().__init__()
        self.feature_dims = feature_dims

    def _dims(self, x: Tensor) -> tuple[int, ...]:
        return tuple(range(-min(self.feature_dims, x.dim()), 0))

    def extra_repr(self) -> str:
        """Over how many dimensions."""
        return f"feature_dims={self.feature_dims}"


class QuestActivation(_PerToken):
    """`quest_values` of every token."""

    def forward(self, x: Tensor, bits: Tensor) -> Tensor:
        """The activations on their grids; at 32 bits as they are."""
        tokens = x.reshape(-1, math.prod(x.shape[self._dims(x)[0] :]))
        return quest_values(tokens, bits).view(x.shape)


class TokenRange(_PerToken):
    """Every token on the uniform grid from its own minimum to its own maximum; the gradient passes unchanged."""

    def forward(self, x: Tensor, bits: Tensor) -> Tensor:
        """The activations on their grids; at 32 bits as they are."""
        if x.numel() == 0:
            return x
        return StraightThrough.apply(x, bits, False, self._values)  # type: ignore[no-any-return]

    def _values(self, x: Tensor, bits: Tensor, _: bool) -> Tensor:
        dims = self._dims(x)
        return snap_reference(x, x.amin(dims, keepdim=True), x.amax(dims, keepdim=True), bits)


def _binary_values(weight: Tensor, bits: Tensor, per_channel: bool) -> Tensor:
    def binary() -> Tensor:
        native = row_kernels(weight)
        if native is not None:
            return native.ternarize(weight, row_count(weight, per_channel), 0.0, "mean")[0]
        unit, size = normalized(weight, per_channel)
        scale = mean_magnitude(unit, per_channel) * size
        values = torch.where(unit < 0, -scale, scale) + (unit - unit)  # what is not a number stays visible
        return values.to(weight.dtype)

    return unless_off(weight, bits, binary)


def binary_weight(weight: Tensor, bits: Tensor, per_channel: bool = True) -> Tensor:
    """Binary weights: ``a * sign(w)``, a = mean|w|, which has the smallest squared error; sign(0) is 1.

    Source: Rastegari et al., XNOR-Net, arXiv 1603.05279, eq. 6. The gradient passes unchanged (straight-through).

    Args:
        weight: ``(out, ...)``, floating dtype.
        bits: 0-dim float tensor; at 32 the weight comes back as it is, at any other width it is binary.
        per_channel: one scale per output channel, as in the paper, or one for the tensor.
    """
    return StraightThrough.apply(weight, bits, per_channel, _binary_values)  # type: ignore[no-any-return]


register_activations(ActivationQuantizer("token", make_for=TokenRange))
register_activations(ActivationQuantizer("quest", make_for=QuestActivation))
register(Quantizer("binary", binary_weight, "channel", fixed_bits=1.0, values=_binary_values))
register(Quantizer("quest", quest_values, "channel", step=quest_step, activations="quest"))
register(Quantizer("quest_hadamard", quest_values, "channel", step=quest_step, activations="quest", rotates=True))
