"""How a file holds the weight of a layer, and the modules that say so in ONNX's own nodes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.export.calibration import weight_codes
from bitdial.layers import QuantConvTranspose1d, QuantConvTranspose2d, QuantizedLayer
from bitdial.layers.whole import half_steps
from bitdial.numerics import UNQUANTIZED


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


def held_weight(layer: QuantizedLayer) -> tuple[Weight, LayerPlan]:
    """A module that gives the weight, and what is to be said of it."""
    plan = LayerPlan(layer.width("weight_bits"), layer.width("activation_bits"), "float32")
    transposed = isinstance(layer, QuantConvTranspose1d | QuantConvTranspose2d)
    found = weight_codes(layer)
    if not isinstance(found, str):
        if transposed and int(getattr(layer, "groups", 1)) > 1:  # they have channels of different groups in one place
            reason = "the output channels of its groups share one dimension of the weight"
            return FloatWeight(layer.quantized_weight()), replace(plan, reason=reason)
        ends = int(found.codes.min()), int(found.codes.max())
        held = replace(plan, holds="codes", odd=found.odd, lowest=ends[0], highest=ends[1])
        return _Codes(found.codes, found.scale, int(transposed)), held
    plan = replace(plan, reason=found)
    if layer.width("weight_bits") >= UNQUANTIZED and not layer._is_stored:
        return FloatWeight(layer._float_weight()), plan
    if not transposed:
        trits = _two_scales(layer)
        if trits is not None:
            return trits, replace(plan, holds="two scales", lowest=-1, highest=1)
        halves = _half_codes(layer)
        if halves is not None:
            return halves, replace(plan, holds="half", lowest=-128, highest=127)
    return FloatWeight(layer.quantized_weight()), plan


@torch.no_grad()
def _two_scales(layer: QuantizedLayer) -> Weight | None:
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
def _half_codes(layer: QuantizedLayer) -> Weight | None:
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


class Weight(nn.Module):
    """Gives a weight when it is called."""

    def forward(self) -> Tensor:
        """The weight, in its own layout."""
        raise NotImplementedError

    def transposed(self) -> Tensor:
        """The weight ``(in, out)``."""
        return self.forward().t()


class _Codes(Weight):
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


class _TwoScales(Weight):
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


class FloatWeight(Weight):
    """A weight as it is, on its grid or not."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values.detach().clone())

    def forward(self) -> Tensor:
        """The weight, in its own layout."""
        return self.values
