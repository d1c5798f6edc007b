"""The step that every quantized layer takes: activations to the grid, then the product, in one autograd node.

How the product is computed from values on their grids, today in floating point, is an arithmetic's business: it has two
methods, the product and its derivatives, and nothing else in the package knows how either is computed.

In one node because of memory: the float input is kept by whatever produced it (a ReLU keeps its output), so only that
is saved, and its grid values, which the weight's gradient needs, are computed again in the backward pass. That takes
one pass and saves a float copy of every activation. (Keeping them as int8 was tried: more memory, no less time.)
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from bitdial.numerics.grid import IDENTITY, Grid, TensorGrid, snap, snap_again, snap_shared
from bitdial.numerics.rounding import quantize_gradient, straight_through
from bitdial.numerics.weights import StraightThrough

Needs = tuple[bool, bool, bool]
"""Which derivatives are wanted: of the input, the weight, the bias."""

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Arithmetic(Protocol):
    """A bilinear product ``y = x * w + b`` and its derivatives."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output for an input and a weight on their grids."""
        ...

    def derivatives(self, gradient: Tensor, x: Tensor, weight: Tensor, needs: Needs) -> Gradients:
        """Derivatives by input, weight and bias, given that of the output; None where not needed."""
        ...


def _of_its_own(y: Tensor) -> Tensor:
    """The same values, no view to autograd, which forbids to change what is one of a tensor inside a function."""
    return torch.ops.aten._unsafe_view.default(y, y.shape)  # type: ignore[no-any-return]


class LinearArithmetic(NamedTuple):
    """``y = x @ w.T + b`` for x of shape ``(..., in)`` and w of shape ``(out, in)``."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Output of shape ``(..., out)``."""
        y = functional.linear(x, weight, bias)
        return y if x.dim() == 2 else _of_its_own(y)

    def derivatives(self, gradient: Tensor, x: Tensor, weight: Tensor, needs: Needs) -> Gradients:
        """Derivatives in the shapes of x, w and b."""
        flat = gradient.reshape(-1, weight.shape[0])
        return (
            gradient @ weight if needs[0] else None,
            flat.t() @ x.reshape(-1, weight.shape[1]) if needs[1] else None,
            flat.sum(0) if needs[2] else None,
        )


class ConvArithmetic(NamedTuple):
    """Convolution in one or two dimensions with zero padding; each field has one number per dimension.

    `more_behind` is how many zeros more there are at the end of each dimension (``padding="same"``, an even kernel).
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    more_behind: tuple[int, ...] = ()

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Output of shape ``(batch, out, *space)``."""
        x = self._lengthened(x, 1)
        convolve = functional.conv1d if len(self.stride) == 1 else functional.conv2d
        y = convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return y if x.dim() == len(self.stride) + 2 else _of_its_own(y)

    def derivatives(self, gradient: Tensor, x: Tensor, weight: Tensor, needs: Needs) -> Gradients:
        """Derivatives in the shapes of x, w and b."""
        by_input, by_weight, by_bias = _convolution_backward(self, gradient, self._lengthened(x, 1), weight, needs)
        return None if by_input is None else self._lengthened(by_input, -1), by_weight, by_bias

    def _lengthened(self, x: Tensor, sign: int) -> Tensor:
        """With `more_behind` zeros at the end of each dimension, or with so many values less."""
        if not any(self.more_behind):
            return x
        return functional.pad(x, [side for more in reversed(self.more_behind) for side in (0, sign * more)])


class TransposedArithmetic(NamedTuple):
    """Transposed convolution in one or two dimensions; weights are ``(in, out / groups, *kernel)``."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    output_padding: tuple[int, ...]

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Output of shape ``(batch, out, *space)``."""
        convolve = functional.conv_transpose1d if len(self.stride) == 1 else functional.conv_transpose2d
        y = convolve(x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return y if x.dim() == len(self.stride) + 2 else _of_its_own(y)

    def derivatives(self, gradient: Tensor, x: Tensor, weight: Tensor, needs: Needs) -> Gradients:
        """Derivatives in the shapes of x, w and b."""
        return _convolution_backward(self, gradient, x, weight, needs, self.output_padding)


def _convolution_backward(
    of: ConvArithmetic | TransposedArithmetic,
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    needs: Needs,
    output_padding: tuple[int, ...] | None = None,
) -> Gradients:
    """Derivatives of a convolution, a transposed one where there is an output padding."""
    transposed = output_padding is not None
    batched = x.dim() == len(of.stride) + 2
    if not batched:
        gradient, x = gradient.unsqueeze(0), x.unsqueeze(0)
    by_input, by_weight, by_bias = torch.ops.aten.convolution_backward.default(
        gradient,
        x,
        weight,
        [gradient.shape[1]],
        of.stride,
        of.padding,
        of.dilation,
        transposed,
        output_padding or [0] * len(of.stride),
        of.groups,
        list(needs),
    )
    if by_input is not None and not batched:
        by_input = by_input.squeeze(0)
    return by_input, by_weight, by_bias


def _rounded_to(x: Tensor, values: Tensor) -> Tensor:
    """The values, to autograd those of x."""
    return StraightThrough.apply(x, values, False, lambda x, values, _: values)  # type: ignore[no-any-return]


def _passed(gradient: Tensor, x: Tensor, grid: Grid | None, tensors: list[Tensor], clip: bool) -> Tensor:
    """The gradient of the input's grid values as that of the input."""
    if grid is None:
        low, high, bits = tensors
        return straight_through(gradient, x, low, high, bits, clip=clip)
    return gradient * ((x >= grid.low) & (x <= grid.high)) if clip and grid is not IDENTITY else gradient


class QuantizedProduct(torch.autograd.Function):
    """Product of the input's grid values and a weight, differentiable in input (straight-through), weight and bias.

    Args of `apply`:
        x: the layer's float input; it must not be changed in place afterwards.
        weight: already on its grid, unless `on_grid` is given.
        on_grid: the weight's grid values, where its gradient passes through them unchanged; else None.
        bias: ``(out,)`` or None; stays in floating point.
        grid: of the activations, as numbers where they may be read, else as tensors.
        gradient_bits: 0-dim float tensor: the gradient that comes back through the layer's output is rounded to it
            stochastically before either product of the backward pass takes it, as in CPT's code. None: it is not.
        clip: whether inputs outside the grid are clipped (and get no gradient).
        arithmetic: how the product is computed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        on_grid: Tensor | None,
        bias: Tensor | None,
        grid: Grid | TensorGrid,
        gradient_bits: Tensor | None,
        clip: bool,
        arithmetic: Arithmetic,
    ) -> Tensor:
        """Output of the layer, in the shape that its arithmetic gives."""
        ctx.clip, ctx.arithmetic, ctx.has_bias, ctx.grid = clip, arithmetic, bias is not None, grid
        if not torch.compiler.is_compiling():
            ctx.weight = None if on_grid is None else weight  # what a second derivative goes back to
        weight = weight if on_grid is None else on_grid
        # Copies: the dial may be turned before the backward pass (a teacher at 32 bits, a loss at two widths).
        kept_bits = None if gradient_bits is None else gradient_bits.clone()
        if isinstance(grid, TensorGrid):
            ctx.grid = None
            ctx.save_for_backward(x, weight, kept_bits, grid.low, grid.high, grid.bits.clone())
            return arithmetic.product(snap(x, *grid, clip=clip), weight, bias)
        ctx.save_for_backward(x, weight, kept_bits)
        return arithmetic.product(snap_shared(x, grid, clip=clip), weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        """Derivatives in the order of the arguments, which can be differentiated again (straight-through too)."""
        x, weight, gradient_bits, *tensors = ctx.saved_tensors
        gradient: Tensor = gradients[0]
        again = torch.is_grad_enabled() and not torch.compiler.is_compiling()  # create_graph=True
        if gradient_bits is not None:
            rounded = quantize_gradient(gradient, gradient_bits)
            gradient = _rounded_to(gradient, rounded) if again else rounded
        if again and ctx.weight is not None:
            weight = _rounded_to(ctx.weight, weight)
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[3])
        grid: Grid | None = ctx.grid
        values = x
        if needs[1]:
            values = snap_again(x, *tensors, clip=ctx.clip) if grid is None else snap_shared(x, grid, clip=ctx.clip)
            if again and values is not x:  # a copy: what is shared is soon overwritten
                values = _rounded_to(_passed(x, x, grid, tensors, ctx.clip), values.clone())
        factor = weight
        if gradient.dtype != weight.dtype or gradient.dtype != values.dtype:
            # Under autocast the product was taken in the dtype of its output, and so are its derivatives.
            values, factor = values.to(gradient.dtype), weight.to(gradient.dtype)
        by_input, by_weight, by_bias = ctx.arithmetic.derivatives(gradient, values, factor, needs)
        if by_input is not None:
            by_input = _passed(by_input.to(x.dtype), x, grid, tensors, ctx.clip)
        if by_weight is not None:
            by_weight = by_weight.to(weight.dtype)
        return by_input, by_weight, None, by_bias, None, None, None, None


def recorded_product(
    x: Tensor,
    weight: Tensor,
    on_grid: Tensor | None,
    bias: Tensor | None,
    grid: TensorGrid,
    clip: bool,
    arithmetic: Arithmetic,
) -> Tensor:
    """`QuantizedProduct` in plain operations, as ``jit.trace`` can save no others; gradients are not rounded."""
    values = snap(x.detach(), *grid, clip=clip)
    passed = straight_through(x - x.detach(), x, *grid, clip=clip)  # zeros, which carry the gradient
    if on_grid is not None:
        weight = on_grid.detach() + (weight - weight.detach())  # a trace knows no `no_grad`
    return arithmetic.product(values + passed, weight, bias)
