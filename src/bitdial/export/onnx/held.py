"""The twin of a network that is written: its quantized layers say in ONNX's own nodes how they hold what they hold.

A layer's input goes through QuantizeLinear and DequantizeLinear, its weight comes out of DequantizeLinear. torch's
exporter takes these nodes as they are, and all around them as it ever does; so what is written follows from the layers,
not from a pattern that is looked for in a graph.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitdial.errors import BitdialError
from bitdial.export.calibration import ActivationGrid, activation_grid, weight_codes
from bitdial.layers import QuantConvTranspose1d, QuantConvTranspose2d, QuantizedLayer
from bitdial.layers.arithmetic import Arithmetic, LinearArithmetic
from bitdial.layers.norm_rows import PerWidth
from bitdial.layers.whole import half_steps
from bitdial.numerics import UNQUANTIZED

UINT16 = 2**16
"""Levels of the grids that need 16 bits."""


@dataclass(frozen=True)
class LayerPlan:
    """How a file holds one quantized layer.

    Attributes:
        weights, activations: the widths that it was trained at; 32 means as it is.
        holds: ``"codes"``: whole numbers with a scale a channel; ``"two scales"``: ternary codes of which those below
            zero have another scale; ``"half"``: whole numbers plus a half; ``"float32"``: the quantized values as they
            are.
        reason: why the weight or the input is not held in whole numbers; empty where both are.
        odd: whether the grid of the weight has no zero, and its codes are all odd.
        lowest, highest: of the codes; 0 where there are none.
    """

    weights: float
    activations: float
    holds: str
    reason: str = ""
    odd: bool = False
    lowest: int = 0
    highest: int = 0


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
    weight, plan = _weight(layer)
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


def _weight(layer: QuantizedLayer) -> tuple[_Weight, LayerPlan]:
    """A module that gives the weight, and what is to be said of it."""
    plan = LayerPlan(layer.width("weight_bits"), layer.width("activation_bits"), "float32")
    transposed = isinstance(layer, QuantConvTranspose1d | QuantConvTranspose2d)
    found = weight_codes(layer)
    if not isinstance(found, str):
        if transposed and int(getattr(layer, "groups", 1)) > 1:  # they have channels of different groups in one place
            reason = "the output channels of its groups share one dimension of the weight"
            return _FloatWeight(layer.quantized_weight()), replace(plan, reason=reason)
        ends = int(found.codes.min()), int(found.codes.max())
        held = replace(plan, holds="codes", odd=found.odd, lowest=ends[0], highest=ends[1])
        return _Codes(found.codes, found.scale, int(transposed)), held
    plan = replace(plan, reason=found)
    if layer.width("weight_bits") >= UNQUANTIZED and not layer._is_stored:
        return _FloatWeight(layer._float_weight()), plan
    if not transposed:
        trits = _two_scales(layer)
        if trits is not None:
            return trits, replace(plan, holds="two scales", lowest=-1, highest=1)
        halves = _half_codes(layer)
        if halves is not None:
            return halves, replace(plan, holds="half", lowest=-128, highest=127)
    return _FloatWeight(layer.quantized_weight()), plan


@torch.no_grad()
def _two_scales(layer: QuantizedLayer) -> _Weight | None:
    """A ternary weight with the values -a, 0 and b in each output channel, if it is one."""
    values = layer.quantized_weight()
    rows = values.reshape(len(values), -1)
    if layer.quantizer.rotates or not rows.numel():
        return None
    above, below = rows.amax(1).clamp_min(0), (-rows.amin(1)).clamp_min(0)
    codes = rows.sign()
    if not torch.equal(codes.clamp_min(0) * above[:, None] + codes.clamp_max(0) * below[:, None], rows):
        return None
    tiny = torch.finfo(torch.float32).tiny
    return _TwoScales(codes.to(torch.int8).view(values.shape), above.clamp_min(tiny), below.clamp_min(tiny))


@torch.no_grad()
def _half_codes(layer: QuantizedLayer) -> _Weight | None:
    """A weight of 256 levels without a zero: whole numbers in a signed byte plus a half, times a step."""
    one_step = layer.group_size is None or layer.scale_groups == len(layer.outputs_first(layer.weight))
    found = half_steps(layer) if one_step and not layer.quantizer.rotates else None
    if found is None:
        return None
    rows, half = found
    codes = (rows - 1) / 2
    if not bool((rows % 2 != 0).all()) or codes.min() < -128 or codes.max() > 127:
        return None
    scale = (2 * half).flatten().expand(len(rows)).float().contiguous()
    return _Halves(codes.to(torch.int8), scale)


def node(kind: str, inputs: tuple[Tensor, ...], like: Any, dtype: torch.dtype, **attributes: int) -> Tensor:
    """The output of one node of ONNX, which torch's exporter takes as it is."""
    from torch.onnx.ops import symbolic

    given: Any = attributes or None
    return symbolic(kind, inputs, given, dtype=dtype, shape=like)


class _Weight(nn.Module):
    """Gives a weight when it is called."""

    def forward(self) -> Tensor:
        """The weight, in its own layout."""
        raise NotImplementedError

    def transposed(self) -> Tensor:
        """The weight ``(in, out)``."""
        return self.forward().t()


class _Codes(_Weight):
    """A weight out of DequantizeLinear."""

    codes: Tensor
    scale: Tensor
    zero: Tensor
    turned: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, axis: int = 0) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(len(scale), dtype=torch.int8))
        self.register_buffer("turned", codes.t().contiguous() if codes.dim() == 2 else None)

    def forward(self) -> Tensor:
        """The weight, in its own layout."""
        return node(
            "DequantizeLinear", (self.codes, self.scale, self.zero), self.codes.shape, torch.float32, axis=self.axis
        )

    def transposed(self) -> Tensor:
        """The weight ``(in, out)``."""
        assert self.turned is not None
        return node("DequantizeLinear", (self.turned, self.scale, self.zero), self.turned.shape, torch.float32, axis=1)


class _TwoScales(_Weight):
    """A ternary weight whose negative values have a scale of their own."""

    codes: Tensor
    above: Tensor
    below: Tensor
    zero: Tensor

    def __init__(self, codes: Tensor, above: Tensor, below: Tensor) -> None:
        super().__init__()
        for name, value in (("codes", codes), ("above", above), ("below", below)):
            self.register_buffer(name, value)
        self.register_buffer("zero", torch.zeros(len(above), dtype=torch.int8))

    def forward(self) -> Tensor:
        """The weight, in its own layout."""
        up, down = (
            node("DequantizeLinear", (self.codes, scale, self.zero), self.codes.shape, torch.float32, axis=0)
            for scale in (self.above, self.below)
        )
        return up.clamp(min=0.0) + down.clamp(max=0.0)


class _Halves(_Codes):
    """A weight whose grid has no zero, in whole numbers that are half a step off."""

    shift: Tensor

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        super().__init__(codes, scale)
        self.register_buffer("shift", (scale / 2).view(-1, *(1 for _ in codes.shape[1:])))

    def forward(self) -> Tensor:
        """The weight, in its own layout."""
        return super().forward() + self.shift

    def transposed(self) -> Tensor:
        """The weight ``(in, out)``."""
        return super().transposed() + self.shift.t()


class _FloatWeight(_Weight):
    """A weight as it is, on its grid or not."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values.detach().clone())

    def forward(self) -> Tensor:
        """The weight, in its own layout."""
        return self.values


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

    def __init__(self, layer: QuantizedLayer, weight: _Weight, grids: list[ActivationGrid]) -> None:
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
