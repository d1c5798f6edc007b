"""One layer's quantized weight as packed codes and a few scales, exactly.

An encoding is chosen by trying: a weight is stored in the first form that gives every value back, bit for bit (a zero
is +0). Trits where a group of weights (an output channel, or the whole tensor) has the values -a, 0, b; else codes on
a uniform grid with one step a group, symmetric or from ``-levels // 2`` steps up; else codes into a table of the
group's values, which always fits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from bitdial.errors import BitdialError
from bitdial.numerics import (
    pack_bits,
    pack_trits,
    pack_trits_2bit,
    unpack_bits,
    unpack_trits,
    unpack_trits_2bit,
)

Trits = Literal["base3", "2bit"]
Form = Literal["base3", "2bit", "grid", "signed", "table"]

# Form, levels, packed codes and scales of an `Encoded`.
_Packed: TypeAlias = tuple[Form, int, Tensor, Tensor]

GRIDS = ("grid", "signed")
"""Forms of which a scale is the step of a grid."""

MOST_LEVELS = 256
"""Levels of the widest grid that is packed: 8 bits."""


@dataclass(frozen=True)
class Encoded:
    """A weight in its packed form.

    Attributes:
        form: ``base3`` and ``2bit``: trits; ``grid``: multiples of a step, as many below zero as above; ``signed``:
            whole multiples of a step from ``-levels // 2`` up; ``table``: indices.
        levels: number of values that a code can stand for.
        groups: number of groups, each with scales of its own: weights are in groups in row-major order.
        codes: uint8, one dimension.
        scales: ``(groups,)``, or ``(2, groups)`` for trits with two scales (b, then a), or ``(groups, levels)`` for a
            table; float32 for grids, else of the weight's dtype.
    """

    form: Form
    levels: int
    groups: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    codes: Tensor
    scales: Tensor


def encode(weight: Tensor, groups: int, levels: int, trits: Trits, steps: Tensor | None = None) -> Encoded:
    """Encode a weight that is on its grid.

    Args:
        weight: any shape, floating dtype, finite; the first dimension divides into `groups` with scales of their own.
        levels: how many values a group has at most, up to 256; three are packed as `trits` says.
        steps: ``(groups,)``, the likely steps of a uniform grid; guessed from the largest values else.

    Raises:
        BitdialError: a group has more values than 256.
    """
    plain = weight.detach().cpu().contiguous() + 0.0  # no -0
    rows = plain.view(groups, plain.numel() // max(groups, 1))
    exact = _trits(rows, trits) if levels == 3 else _grid(rows, levels, steps, "grid")
    if exact is None and levels != 3:
        exact = _grid(rows, levels, steps, "signed")
    form, count, codes, scales = exact or _table(rows)
    return Encoded(form, count, groups, tuple(plain.shape), plain.dtype, codes, scales)


def decode(encoded: Encoded) -> Tensor:
    """The weight, bit for bit as it was encoded.

    Raises:
        BitdialError: codes that no weight gives (`bitdial.numerics.DamagedPacking`), or parts that do not fit together.
    """
    e = encoded
    count = math.prod(e.shape)
    per_group = count // max(e.groups, 1)
    if e.groups * per_group != count:
        raise BitdialError(f"{count} weights must divide into {e.groups} groups")
    allowed: list[tuple[int, ...]] = [(e.groups, e.levels) if e.form == "table" else (e.groups,)]
    if e.form in ("base3", "2bit"):
        allowed.append((2, e.groups))
    if tuple(e.scales.shape) not in allowed or e.scales.dtype != (torch.float32 if e.form in GRIDS else e.dtype):
        raise BitdialError(
            f"scales of {e.groups} groups must have the shape {' or '.join(map(str, allowed))}, "
            f"got {e.scales.dtype} {tuple(e.scales.shape)}"
        )
    shape = (e.groups, per_group)
    if e.form in ("base3", "2bit"):
        unpack = unpack_trits if e.form == "base3" else unpack_trits_2bit
        rows = _from_trits(unpack(e.codes, shape), e.scales if e.scales.dim() == 2 else e.scales[None])
    else:
        codes = codes_of(e).view(shape)
        if e.form in GRIDS:
            rows = _from_grid(codes, e.scales, _zero(e.form, e.levels), e.dtype)
        else:
            rows = e.scales.gather(1, codes.long())
    return rows.view(e.shape)


def codes_of(encoded: Encoded) -> Tensor:
    """The codes of a grid or a table, uint8 in the shape of the weight.

    Raises:
        BitdialError: there are some that stand for nothing.
    """
    codes = unpack_bits(encoded.codes, _bits(encoded.levels), encoded.shape)
    if codes.numel() and int(codes.max()) >= encoded.levels:
        raise BitdialError(f"codes of {encoded.levels} levels must be less than that, got {int(codes.max())}")
    return codes


def _bits(levels: int) -> int:
    return max(1, (levels - 1).bit_length())


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors agree in dtype, shape and every bit (torch.equal takes -0 for 0)."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(left, right) and torch.equal(left.signbit(), right.signbit())


def _trits(rows: Tensor, packing: Trits) -> _Packed | None:
    if rows.numel() == 0:
        scales = rows.new_zeros(1, rows.shape[0])
    else:
        above, below = rows.amax(1).clamp_min(0), (0.0 - rows.amin(1)).clamp_min(0)
        # A group without one of the signs takes the other's scale: then one scale is enough.
        positive, negative = torch.where(above > 0, above, below), torch.where(below > 0, below, above)
        scales = positive[None] if torch.equal(positive, negative) else torch.stack([positive, negative])
    codes = rows.sign().to(torch.int8)
    if not same_bits(_from_trits(codes, scales), rows):
        return None
    packed = pack_trits(codes) if packing == "base3" else pack_trits_2bit(codes)
    return packing, 3, packed, scales[0] if len(scales) == 1 else scales


def _from_trits(codes: Tensor, scales: Tensor) -> Tensor:
    above, below = scales[0, :, None], 0.0 - scales[-1, :, None]
    return torch.where(codes > 0, above, torch.where(codes < 0, below, torch.zeros_like(above)))


def _zero(form: str, levels: int) -> float:
    """The code, perhaps between two, that stands for 0."""
    return (levels - 1) / 2 if form == "grid" else levels // 2


def _grid(rows: Tensor, levels: int, likely: Tensor | None, form: Form) -> _Packed | None:
    if rows.numel() == 0:
        return None
    zero = _zero(form, levels)
    # The largest value stands at an end of the grid, if the group uses it; one that was rounded has the next step.
    ends = [rows.abs().amax(1).float() / end for end in (zero, max(levels - 1 - zero, 0.5))]
    guesses = [torch.zeros_like(ends[0]), *([] if likely is None else [likely.float()]), *ends]
    guesses += [end.nextafter(torch.full_like(end, to)) for end in ends for to in (0.0, math.inf)]
    steps, found = torch.zeros_like(ends[0]), torch.zeros_like(ends[0], dtype=torch.bool)
    codes = torch.zeros_like(rows, dtype=torch.uint8)
    for step in guesses:
        position = (rows.float() / step[:, None]).nan_to_num(0.0) + zero
        trial = position.round().clamp(0, levels - 1).to(torch.uint8)
        fits = (_from_grid(trial, step, zero, rows.dtype) == rows).all(1) & ~found
        steps, codes = torch.where(fits, step, steps), torch.where(fits[:, None], trial, codes)
        found |= fits
    if not bool(found.all()):
        return None
    return form, levels, pack_bits(codes, _bits(levels)), steps


def _from_grid(codes: Tensor, steps: Tensor, zero: float, dtype: torch.dtype) -> Tensor:
    return ((codes.float() - zero) * steps[:, None]).to(dtype) + 0.0


def _table(rows: Tensor) -> _Packed:
    values = [row.unique() for row in rows]
    levels = max((len(own) for own in values), default=1) or 1
    if levels > MOST_LEVELS:
        raise BitdialError(f"packed weights must have at most {MOST_LEVELS} values in a group, got {levels}")
    table, codes = rows.new_zeros(len(values), levels), torch.zeros_like(rows, dtype=torch.int64)
    for group, own in enumerate(values):
        table[group, : len(own)] = own
        codes[group] = torch.searchsorted(own, rows[group])
    return "table", levels, pack_bits(codes, _bits(levels)), table
