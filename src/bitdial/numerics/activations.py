"""Activations on a grid: values and the straight-through gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitdial.numerics.grid import snap
from bitdial.numerics.reference import UNQUANTIZED


def straight_through(gradient: Tensor, x: Tensor, low: Tensor, high: Tensor, bits: Tensor, clip: bool) -> Tensor:
    """Gradient of `snap` by the straight-through estimator: unchanged inside [low, high], zero where it was clipped."""
    if not clip:
        return gradient
    passes = ((x >= low) & (x <= high)) | (bits >= UNQUANTIZED)
    return gradient * passes


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor, bits: Tensor, clip: bool) -> Tensor:
        ctx.clip = clip
        if clip:
            ctx.save_for_backward(x, low, high, bits.clone())  # the dial may be turned before the backward pass
        snapped = snap(x, low, high, bits, clip=clip)
        return snapped.view_as(x) if snapped is x else snapped

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None, None]:
        gradient = gradients[0]
        if ctx.clip:
            x, low, high, bits = ctx.saved_tensors
            gradient = straight_through(gradient, x, low, high, bits, clip=True)
        return gradient, None, None, None, None


def fake_quantize(x: Tensor, low: Tensor, high: Tensor, bits: Tensor, *, clip: bool = False) -> Tensor:
    """`snap` with the straight-through gradient (Bengio et al., arXiv 1308.3432).

    Args:
        x: values, any shape and floating dtype.
        low, high: 0-dim float32 tensors, the ends of the grid. With ``bitdial.numerics.min_max(x)`` nothing is clipped.
        bits: 0-dim float tensor, 1 to 32.
        clip: bring values outside [low, high] to the nearer end; their gradient is then zero.
    """
    return _FakeQuantize.apply(x, low, high, bits, clip)  # type: ignore[no-any-return]
