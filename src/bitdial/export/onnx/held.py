"""The twin of a network that is written: its quantized layers say in ONNX's own nodes how they hold what they hold.

A layer's input goes through QuantizeLinear and DequantizeLinear, its weight comes out of DequantizeLinear. torch's
exporter takes these nodes as they are, and all around them as it ever does; so what is written follows from the layers,
not from a pattern that is looked for in a graph.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitdial.errors import BitdialError
from bitdial.export.calibration import ActivationGrid, activation_grid
from bitdial.export.onnx.weights import LayerPlan, Weight, held_weight, node
from bitdial.layers import QuantizedLayer
from bitdial.layers.arithmetic import Arithmetic, LinearArithmetic
from bitdial.layers.norm_rows import PerWidth
from bitdial.numerics import UNQUANTIZED

UINT16 = 2**16
"""Levels of the grids that need 16 bits."""


def held_twin(reference: nn.Module) -> tuple[nn.Module, dict[str, LayerPlan]]:
    """The twin of a calibrated network, and how it holds each layer; the network has been run once in eager mode.

    Raises:
        BitdialError: an input has a grid that no file can hold.
    """
    twin = copy.deepcopy(reference).eval()
    for name, module in list(twin.named_modules()):
        if isinstance(module, PerWidth):
            _put(twin, name, _plain_norm(module))
    plans = {}
    for name, module in list(twin.named_modules()):
        if isinstance(module, QuantizedLayer):
            plans[name] = _hold(twin, name, module)
    return twin, plans


def _hold(twin: nn.Module, name: str, layer: QuantizedLayer) -> LayerPlan:
    grids = [activation_grid(layer, call) for call in range(layer.range_calls)]
    refused = next((grid for grid in grids if isinstance(grid, str)), None)
    if refused is not None and not layer.is_read:
        raise BitdialError(f'layer "{name}" cannot be written: {refused}')
    known = [grid for grid in grids if isinstance(grid, ActivationGrid)]
    weight, plan = held_weight(layer)
    if layer.is_read:
        reason = "another module reads its weight and multiplies in floating point"
        _put(twin, name, _float_layer(layer))
        return LayerPlan(plan.weights, UNQUANTIZED, "float32", reason)
    missing = [grid for grid in known if grid.zero_point is None]
    if missing:
        assert all(grid.levels == 2 for grid in missing), "calibrated() puts zero on every other grid"
        plan = replace(plan, reason=plan.reason or "0.0 is not on the grid of its input (two levels)")
    _Product(layer, weight, known).take_place()
    return plan


class _Rounded(nn.Module):
    """An input that goes through its grid."""

    scale: Tensor
    zero: Tensor

    def __init__(self, grid: ActivationGrid) -> None:
        super().__init__()
        self.grid = grid
        self.dtype = torch.uint16 if grid.levels > 256 else torch.uint8
        self.register_buffer("scale", torch.tensor(grid.scale))
        self.register_buffer("zero", torch.tensor(grid.zero_point or 0, dtype=self.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The values of the grid nearest to x."""
        grid = self.grid
        if grid.zero_point is None:  # two levels around zero, in floating point
            return torch.where(x > (grid.low + grid.high) / 2, grid.high, grid.low)
        if grid.levels not in (256, UINT16):  # the type would let codes pass that the grid has not
            x = x.clamp(grid.low, grid.high)
        codes = node("QuantizeLinear", (x, self.scale, self.zero), x.shape, self.dtype)
        return node("DequantizeLinear", (codes, self.scale, self.zero), x.shape, torch.float32)


class _Product(nn.Module):
    """What a layer of the twin computes: the product of the input's grid values and its weight."""

    def __init__(self, layer: QuantizedLayer, weight: Weight, grids: list[ActivationGrid]) -> None:
        super().__init__()
        self.layer = (layer,)  # in a tuple: it is no part of this
        self.weight = weight
        self.rounded = nn.ModuleList(_Rounded(grid) for grid in grids)

    def forward(self, x: Tensor, arithmetic: Arithmetic) -> Tensor:
        """The layer's output."""
        layer = self.layer[0]
        if len(self.rounded):
            call, layer._call = layer._call, (layer._call + 1) % layer.range_calls
            x = self.rounded[call](x)
        if isinstance(arithmetic, LinearArithmetic) and x.dim() != 2:
            found = torch.matmul(x, self.weight.transposed())
            return found if layer.bias is None else found + layer.bias
        return arithmetic.product(x, self.weight.forward(), layer.bias)

    def take_place(self) -> None:
        """Have the layer compute in this way from now on; its own weight is not needed any more."""
        layer = self.layer[0]
        layer.add_module("held", self)
        vars(layer)["_product"] = self


class _Norm(_BatchNorm):
    def _check_input_dim(self, input: Tensor) -> None:
        """Of any number of dimensions, as the norm that it replaces."""


def _plain_norm(norm: PerWidth) -> nn.Module:
    """The batch norm that is in force at the widths now."""
    row: Any = norm.row
    plain = _Norm(norm.num_features, norm.eps, affine=row.weight is not None).eval()
    plain.weight, plain.bias = row.weight, row.bias
    plain.running_mean, plain.running_var = row.running_mean, row.running_var
    return plain


@torch.no_grad()
def _float_layer(layer: QuantizedLayer) -> nn.Module:
    """The float layer on the quantized values."""
    kind: Any = next(base for base in type(layer).__mro__ if base.__module__.startswith("torch.nn."))
    shape = {name: getattr(layer, name) for name in layer._shape}
    plain: nn.Module = kind(**shape, bias=layer.bias is not None)
    plain.weight, plain.bias = nn.Parameter(layer.quantized_weight().clone()), layer.bias
    return plain.eval()


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module into every place of the one of this name."""
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child is old:
                parent._modules[key] = module
