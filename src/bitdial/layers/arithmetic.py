"""How a layer's product is computed from values that are on their grids: today in floating point.

A quantized layer asks its grids for values and hands them to an arithmetic. An arithmetic has two methods, the
product and its derivatives; nothing else in the package knows how either is computed.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

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


class LinearArithmetic(NamedTuple):
    """``y = x @ w.T + b`` for x of shape ``(..., in)`` and w of shape ``(out, in)``."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Output of shape ``(..., out)``."""
        return functional.linear(x, weight, bias)

    def derivatives(self, gradient: Tensor, x: Tensor, weight: Tensor, needs: Needs) -> Gradients:
        """Derivatives in the shapes of x, w and b."""
        flat = gradient.reshape(-1, weight.shape[0])
        return (
            gradient @ weight if needs[0] else None,
            flat.t() @ x.reshape(-1, weight.shape[1]) if needs[1] else None,
            flat.sum(0) if needs[2] else None,
        )


class ConvArithmetic(NamedTuple):
    """Convolution in one or two dimensions with zero padding; each field has one number per dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Output of shape ``(batch, out, *space)``."""
        convolve = functional.conv1d if len(self.stride) == 1 else functional.conv2d
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def derivatives(self, gradient: Tensor, x: Tensor, weight: Tensor, needs: Needs) -> Gradients:
        """Derivatives in the shapes of x, w and b."""
        batched = x.dim() == len(self.stride) + 2
        if not batched:
            gradient, x = gradient.unsqueeze(0), x.unsqueeze(0)
        by_input, by_weight, by_bias = torch.ops.aten.convolution_backward.default(
            gradient,
            x,
            weight,
            [weight.shape[0]],
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            self.groups,
            list(needs),
        )
        if by_input is not None and not batched:
            by_input = by_input.squeeze(0)
        return by_input, by_weight, by_bias
