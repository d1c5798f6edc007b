"""Operators that a compiler takes as they are: what is done to activations on a CPU, under ``torch.compile``.

Left to Inductor, ResNet-20 at batch 128 took 1.6 times the compiled float step: see `snap_again` for why. As operators
of their own they run what eager mode runs, and take 1.1 times. They read their 0-dim arguments when they run, so one
graph still serves every width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitdial.numerics import grid


@torch.library.custom_op("bitdial::snap", mutates_args=(), device_types="cpu", tags=(torch.Tag.flexible_layout,))
def snap(x: Tensor, low: Tensor, high: Tensor, bits: Tensor, clip: bool) -> Tensor:
    """`bitdial.numerics.snap`, always into a new tensor."""
    snapped = grid.snap(x, low, high, bits, clip=clip)
    return snapped.clone() if snapped is x else snapped


@snap.register_fake
def _(x: Tensor, low: Tensor, high: Tensor, bits: Tensor, clip: bool) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("bitdial::snap_again", mutates_args=(), device_types="cpu", tags=(torch.Tag.flexible_layout,))
def snap_again(x: Tensor, low: Tensor, high: Tensor, bits: Tensor, clip: bool) -> Tensor:
    """`snap` under another name, for the backward pass.

    Under one name the compiler would merge the two and keep the values, not the float input; for the ReLU before them
    it would then keep a mask of booleans, and kernels that write such masks take ten times as long.
    """
    snapped = grid.snap(x, low, high, bits, clip=clip)
    return snapped.clone() if snapped is x else snapped


@snap_again.register_fake
def _(x: Tensor, low: Tensor, high: Tensor, bits: Tensor, clip: bool) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("bitdial::min_max", mutates_args=(), device_types="cpu", tags=(torch.Tag.flexible_layout,))
def min_max(x: Tensor) -> Tensor:
    """`bitdial.numerics.min_max` as one tensor of shape (2,)."""
    return torch.stack(grid.min_max(x))


@torch.library.custom_op("bitdial::track", mutates_args=("low", "high", "batches"), device_types="cpu")
def track(ends: Tensor, low: Tensor, high: Tensor, batches: Tensor, momentum: float) -> None:
    """`bitdial.numerics.grid.track`, for what `min_max` gave."""
    grid.track(low, high, batches, ends[0].item(), ends[1].item(), momentum)


@min_max.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(2)


@track.register_fake
def _(ends: Tensor, low: Tensor, high: Tensor, batches: Tensor, momentum: float) -> None:
    return None
