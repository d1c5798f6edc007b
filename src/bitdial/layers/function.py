"""The step that every quantized layer takes: activations to the grid, then the product, in one autograd node.

In one node because of memory: the float input is kept by whatever produced it (a ReLU keeps its output), so only that
is saved, and its grid values, which the weight's gradient needs, are computed again in the backward pass. That costs
three cheap in-place passes and saves a float copy of every activation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bitdial.layers.arithmetic import Arithmetic
from bitdial.numerics.activations import straight_through
from bitdial.numerics.grid import snap, snap_factors
from bitdial.numerics.rounding import quantize_gradient


class _QuantizedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        low: Tensor,
        high: Tensor,
        activation_bits: Tensor,
        gradient_bits: Tensor | None,
        clip: bool,
        arithmetic: Arithmetic,
    ) -> Tensor:
        # Copies: the dial may be turned before the backward pass (a teacher at 32 bits, a loss at two widths).
        kept_bits = None if gradient_bits is None else gradient_bits.clone()
        ctx.save_for_backward(x, weight, low, high, activation_bits.clone(), kept_bits)
        ctx.clip, ctx.arithmetic, ctx.has_bias = clip, arithmetic, bias is not None
        values, step = snap_factors(x, low, high, activation_bits, clip=clip)
        return arithmetic.product(values, weight if step == 1.0 else weight * step, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        x, weight, low, high, activation_bits, gradient_bits = ctx.saved_tensors
        gradient: Tensor = gradients[0]
        if gradient_bits is not None:
            gradient = quantize_gradient(gradient, gradient_bits)
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2])
        values, step = x, 1.0
        if needs[1] and gradient.dtype == torch.float32:
            values, step = snap_factors(x, low, high, activation_bits, clip=ctx.clip)
        elif needs[1]:  # under autocast: half precision does not hold the large factors
            values = snap(x, low, high, activation_bits, clip=ctx.clip)
        # Under autocast the product was taken in the dtype of its output, and so are its derivatives.
        by_input, by_weight, by_bias = ctx.arithmetic.derivatives(
            gradient, values.to(gradient.dtype), weight.to(gradient.dtype), needs
        )
        if by_input is not None:
            by_input = straight_through(by_input.to(x.dtype), x, low, high, activation_bits, ctx.clip)
        if by_weight is not None:
            by_weight = by_weight.to(weight.dtype) if step == 1.0 else by_weight.mul_(step)
        return by_input, by_weight, by_bias, None, None, None, None, None, None


def quantized_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    low: Tensor,
    high: Tensor,
    activation_bits: Tensor,
    gradient_bits: Tensor | None,
    clip: bool,
    arithmetic: Arithmetic,
) -> Tensor:
    """Product of the input's grid values and a weight, differentiable in input (straight-through), weight and bias.

    Args:
        x: the layer's float input; it must not be changed in place afterwards.
        weight: already on its grid.
        bias: ``(out,)`` or None; stays in floating point.
        low, high: 0-dim tensors, the ends of the activations' grid.
        activation_bits: 0-dim float tensor.
        gradient_bits: 0-dim float tensor: the gradient that comes back through the layer's output is rounded to it
            stochastically before either product of the backward pass takes it, as in CPT's code. None: it is not.
        clip: whether inputs outside [low, high] are clipped (and get no gradient).
        arithmetic: how the product is computed.
    """
    return _QuantizedProduct.apply(  # type: ignore[no-any-return]
        x, weight, bias, low, high, activation_bits, gradient_bits, clip, arithmetic
    )
