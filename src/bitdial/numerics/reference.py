"""The grids in their plainest form: no in-place arithmetic, no branches; what every fast path is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from bitdial.numerics.widths import UNQUANTIZED, levels


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
