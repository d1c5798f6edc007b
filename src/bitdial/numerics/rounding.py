"""Rounding in training: straight-through for activations, stochastic for gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitdial.numerics.grid import is_traced, min_max, snap
from bitdial.numerics.reference import UNQUANTIZED, levels, step_size


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
        return snapped.clone() if snapped is x else snapped  # a view could not be changed in place

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


def stochastic_round(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Round up with a probability equal to the fraction: ``floor(x + u)``, u uniform on [0, 1), so that the mean is x.

    Source: Gupta et al., Deep Learning with Limited Numerical Precision, ICML 2015.

    Args:
        x: values, any shape and floating dtype. The sum is taken in float32 at least, so up to ``|x| = 2**16`` the
            probability is right to 1/256; float64 goes further.
        generator: where u comes from; torch's default generator of the device if None.

    Returns:
        Whole numbers in the shape and dtype of `x`.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    noise = torch.rand(x.shape, device=x.device, dtype=dtype, generator=generator)
    return noise.add_(x).floor_().to(x.dtype)


def quantize_gradient(gradient: Tensor, bits: Tensor) -> Tensor:
    """Round a gradient stochastically to the grid of its own minimum and maximum, one grid for the tensor, as CPT does.

    Args:
        gradient: any shape and floating dtype; computed in float32, returned in its own dtype.
        bits: 0-dim float tensor; at 32 the gradient comes back as it is (no random number is drawn in eager mode).

    Returns:
        A tensor of the same shape whose expectation is `gradient`.
    """
    if gradient.numel() == 0:
        return gradient
    if not is_traced() and gradient.device.type == "cpu" and bits.item() >= UNQUANTIZED:
        return gradient
    wide = gradient.float()
    low, high = min_max(wide)
    step, last = step_size(low, high, bits), levels(bits) - 1
    codes = torch.minimum(stochastic_round((wide - low) * step.reciprocal()), last)
    return torch.where(bits >= UNQUANTIZED, gradient, (codes * step + low).to(gradient.dtype))
