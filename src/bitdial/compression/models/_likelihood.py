"""Probabilities of rounded values under the generalised normal distribution of shape 1.5."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

SHAPE = 1.5
LEAST_PROBABILITY = 1e-9


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,), (grad,) = ctx.saved_tensors, grads
        return torch.where((x >= ctx.bound) | (grad < 0), grad, 0), None


class _Survival(torch.autograd.Function):
    """`P(V > v)` for a scale of 1; torch's gammaincc has no finite derivative at zero."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        half = torch.special.gammaincc(torch.full_like(v, 1 / SHAPE), v.abs() ** SHAPE) / 2
        return torch.where(v < 0, 1 - half, half)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (v,), (grad,) = ctx.saved_tensors, grads
        return -grad * SHAPE / (2 * math.gamma(1 / SHAPE)) * torch.exp(-(v.abs() ** SHAPE))


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """Return `max(x, bound)`; below the bound only a gradient passes whose descent pushes `x` up."""
    found: Tensor = _LowerBound.apply(x, bound)
    return found


def likelihood(values: Tensor, scale: Tensor) -> Tensor:
    """Probability of the interval of length 1 around each of the values, at least 1e-9."""
    far = values.abs()  # the upper tails are small numbers, of which a difference loses nothing
    upper, lower = _Survival.apply((far - 0.5) / scale), _Survival.apply((far + 0.5) / scale)
    return lower_bound(upper - lower, LEAST_PROBABILITY)
