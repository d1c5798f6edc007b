"""Layers that take the place of quantized ones, where a network has no graph to be had, or the machine no kernels."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitdial.layers import QuantizedLayer, QuantLinear
from bitdial.runtime.kinds import quantized_kind
from bitdial.runtime.operations import Convolve, Operation, Shape
from bitdial.runtime.program import Program
from bitdial.runtime.weights import INT16, Weights


class KernelLayer(nn.Module):
    """A quantized layer that the kernels compute.

    Args:
        layer: whose hooks, if it has any, are gone.
        kind, scale: what `quantized_kind` says of it.
        threads: to compute on.

    Attributes:
        kind, scale, bias: of the operation.
        is_linear: whether its input has its features last.
    """

    def __init__(self, layer: QuantizedLayer, kind: Convolve, scale: Any, threads: int) -> None:
        super().__init__()
        self.kind, self.scale, self._threads = kind, scale, threads
        self.bias = None if layer.bias is None else layer.bias.detach().double().numpy()
        self.is_linear = isinstance(layer, QuantLinear)
        self._programs: dict[Shape, Program] = {}

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives."""
        if self.is_linear:
            rows = x.float().reshape(-1, x.shape[-1]).contiguous()
            y = self._program(Shape(x.shape[-1], 1, 1))([rows], len(rows), self._threads)[0]
            return y.reshape(*x.shape[:-1], -1)
        image = x if x.dim() == 4 else x[:, :, None]
        dense = image.float().permute(0, 2, 3, 1).contiguous()
        y = (
            self._program(Shape(*image.shape[1:]))([dense], len(dense), self._threads)[0]
            .permute(0, 3, 1, 2)
            .contiguous()
        )
        return y if x.dim() == 4 else y[:, :, 0]

    def _program(self, source: Shape) -> Program:
        if source not in self._programs:
            if len(self._programs) > 16:  # sequences of any length
                self._programs.clear()
            kind = self.kind
            rows, columns = (
                (size + before + behind - apart * (kernel - 1) - 1) // stride + 1
                for size, before, behind, apart, kernel, stride in zip(
                    source[1:], kind.borders[:2], kind.borders[2:], kind.dilation, kind.weights.codes.shape[2:],
                    kind.stride, strict=True,
                )
            )  # fmt: skip
            shape = Shape(len(kind.weights.codes), rows, columns)
            operation = Operation(kind, ["x"], "y", shape, source, self.scale, self.bias)
            self._programs[source] = Program([operation], {"x": source}, {"y": shape})
        return self._programs[source]


class OneDnnLayer(nn.Module):
    """A quantized layer that oneDNN computes in int8, through PyTorch."""

    def __init__(self, layer: QuantizedLayer, kind: Convolve, scale: Any, threads: int) -> None:
        super().__init__()
        self._grid, self._is_linear, self._dims = kind.grid, isinstance(layer, QuantLinear), layer.weight.dim()
        codes = torch.from_numpy(kind.weights.codes.astype(np.int8))
        self._scales = torch.from_numpy((scale / kind.grid.scale).astype(np.float32))
        self._zeros = torch.zeros(len(codes), dtype=torch.int64)
        self._bias = None if layer.bias is None else layer.bias.detach().float()
        borders = kind.borders
        self._padding = (borders.left, borders.right, borders.top, borders.bottom)
        self._geometry = [list(kind.stride), [0, 0], list(kind.dilation), kind.weights.groups]
        assert kind.grid.zero_point is not None
        self._zero = kind.grid.zero_point
        own = torch.ops.onednn
        if self._is_linear:
            self._packed = own.qlinear_prepack(codes[:, :, 0, 0].contiguous(), None)
        else:
            self._packed = own.qconv_prepack(codes, self._scales, kind.grid.scale, self._zero, *self._geometry, None)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives."""
        grid = self._grid
        codes = (x * (1.0 / grid.scale)).round().clamp(-self._zero, grid.levels - 1 - self._zero).add(self._zero).byte()
        own = torch.ops.onednn
        given = (grid.scale, self._zero, self._packed, self._scales, self._zeros, self._bias)
        if self._is_linear:
            y: Tensor = own.qlinear_pointwise(codes.contiguous(), *given, 1.0, 0, torch.float32, "none", [], "")
            return y
        codes = codes if x.dim() == 4 else codes[:, :, None]
        if any(self._padding):
            codes = nn.functional.pad(codes, self._padding, value=self._zero)
        codes = codes.contiguous(memory_format=torch.channels_last)
        y = own.qconv_pointwise(codes, *given, *self._geometry, 1.0, 0, torch.float32, "none", [], "")
        return (y if x.dim() == 4 else y[:, :, 0]).contiguous()


@functools.cache
def onednn_saturates() -> bool | None:
    """Whether oneDNN's products leave 16 bits on this processor; None where it cannot be used at all."""
    try:
        codes = torch.full((16, 32), 127, dtype=torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(codes, None)
        ones, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int64)
        x = torch.full((4, 32), 255, dtype=torch.uint8)
        y = torch.ops.onednn.qlinear_pointwise(
            x, 1.0, 0, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return not bool((y == 255 * 127 * 32).all())
    except (RuntimeError, AttributeError, NotImplementedError):
        return None


def fits_onednn(weights: Weights) -> bool:
    """Whether oneDNN's sums of such weights are right on this processor."""
    saturates = onednn_saturates()
    largest = int(np.abs(weights.codes).max(initial=0))
    return saturates is False or (saturates is True and 2 * weights.last * largest <= INT16)


Make = Callable[[QuantizedLayer, Convolve, Any, int], nn.Module]


def substituted(
    model: nn.Module, make: Make, threads: int, fits: Callable[[Weights], bool] = lambda weights: True
) -> tuple[nn.Module, dict[str, str]]:
    """A copy of a network with other layers in the place of quantized ones; and those that stayed, with the reason."""
    network = copy.deepcopy(model)
    stayed: dict[str, str] = {}
    taken: dict[int, nn.Module | str] = {}  # a layer may have several names
    for name, layer in list(network.named_modules(remove_duplicate=False)):
        if not isinstance(layer, QuantizedLayer):
            continue
        if id(layer) not in taken:
            taken[id(layer)] = _in_place_of(layer, make, threads, fits)
        found = taken[id(layer)]
        if isinstance(found, str):
            stayed.setdefault(name, found)
        elif not name:
            return found, stayed
        else:
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, found)
    return network, stayed


def _in_place_of(layer: QuantizedLayer, make: Make, threads: int, fits: Callable[[Weights], bool]) -> nn.Module | str:
    """The layer that takes the place of another, or why there is none."""
    found = quantized_kind(layer)
    if isinstance(found, str):
        return found
    kind, scale = found
    if not isinstance(kind, Convolve):
        return "its input is not quantized"
    if not fits(kind.weights):
        return "its products would leave 16 bits in oneDNN on this processor"
    return make(layer, kind, scale, threads)
