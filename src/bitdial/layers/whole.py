"""A quantized layer as sums of products of whole numbers, which are exact in any order and on any machine.

Activations are ``low + step * a`` and the weights of an output channel ``half * w``, with whole a and w (half a step is
the unit of weights, for a grid with an even number of levels has no value at zero). With S(a, w) for the layer's own
sums of products, its output is ``(S(a, w) * step + S(1, w) * low) * half + bias``. The sums are taken in float64, where
they are exact as long as no part of one reaches 2^53: threads, order and fused multiply-adds make no difference. The
rest is one IEEE operation after the other, element by element. Zeros around the input are no codes; S(1, w) leaves out
what S(a, w) leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitdial.layers.arithmetic import Arithmetic
from bitdial.layers.quantized import QuantizedLayer
from bitdial.numerics import UNQUANTIZED
from bitdial.numerics.learned_step import LearnedGrid
from bitdial.numerics.reference import level_count, step_size
from bitdial.numerics.steps import readable
from bitdial.numerics.weights import magnitude

LIMIT = 2.0**53
"""Whole numbers below it, and sums of them that stay below it, are exact in float64."""

_TINY = torch.finfo(torch.float32).tiny
_ROUNDED = 2.0**-21
"""How far, in parts of itself, a float32 weight may be from a whole number of half steps: some roundings."""


@dataclass(frozen=True, eq=False)
class WholeProduct:
    """What a layer in evaluation computes; called with its input and its arithmetic.

    Attributes:
        layer: which has the range of its input.
        codes: whole numbers in float64, in the layout of the weight.
        sums: the codes of each output channel added up over its inputs, laid out as the weight of one input.
        half: half a step of each output channel, as it broadcasts against an output.
        bias: alike, or None.
        last: the largest code of an activation.
    """

    layer: QuantizedLayer
    codes: Tensor
    sums: Tensor
    half: Tensor
    bias: Tensor | None
    last: int

    @torch.no_grad()
    def __call__(self, x: Tensor, arithmetic: Arithmetic) -> Tensor:
        """The layer's output, float64."""
        x = x.double()
        low, high = self._ends(x)
        step = max((high - low) / self.last, _TINY)
        codes = ((x - low) * (1.0 / step)).round().clamp(0, self.last)
        channel = x.dim() - self.layer._feature_dims
        ones = torch.ones_like(codes.narrow(channel, 0, getattr(self.layer, "groups", 1)))
        # One operation a line. Zeros are added because the sign of a sum that is zero depends on its order.
        found = arithmetic.product(codes, self.codes, None) + 0.0
        found = found * step
        shift = arithmetic.product(ones, self.sums, None) + 0.0
        shift = shift * low
        found = found + shift
        found = found * self.half
        return found if self.bias is None else found + self.bias

    def _ends(self, x: Tensor) -> tuple[float, float]:
        low, high, batches = self.layer._range()
        if self.layer.activation.range is not None or batches.item() > 0:
            return low.item(), high.item()
        return x.amin().item(), x.amax().item()

    def state(self) -> dict[str, Tensor]:
        """All that the output depends on beside the input, and what kind of layer it is."""
        own = {"codes": self.codes, "half": self.half, "last": torch.tensor(self.last)}
        if self.bias is not None:
            own["bias"] = self.bias
        return own | {name: getattr(self.layer, name) for name in ("range_low", "range_high", "range_batches")}

    def take_place(self) -> None:
        """Have the layer compute in this way from now on."""
        vars(self.layer)["_product"] = self


@torch.no_grad()
def whole_product(layer: QuantizedLayer) -> WholeProduct | str:
    """How a layer computes in whole numbers at its widths now, or why it cannot."""
    if layer._parameters.get("weight") is None:
        return "its weight is computed by a hook"
    if layer.quantizer.rotates:
        return f"{layer.quantizer.name} rotates its input, in sums of numbers that are not whole"
    if layer.activation_quantizer is not None:
        return f'activation quantizer {layer.activation.name} has no fixed grid; take activation_quantizer="uniform"'
    if layer.group_size is not None and layer.scale_groups > len(layer.outputs_first(layer.weight)):
        return f'granularity {layer.granularity} has several steps in one sum; take "channel" or "tensor"'
    width = layer.width("activation_bits")
    if width >= UNQUANTIZED or (layer.width("weight_bits") >= UNQUANTIZED and not layer._is_stored):
        return "it stands at 32 bits; turn the dial to 16 or less"
    found = half_steps(layer)
    if found is None:
        return f"weights of {layer.quantizer.name} are not whole numbers of one step in each output channel"
    rows, half = found
    last = level_count(width) - 1
    largest = float(rows.abs().sum(tuple(range(1, rows.dim()))).max()) * last
    if not largest < LIMIT:
        return f"its sums could reach {largest:.3g}, and from 2^53 on they are not exact; turn the dial to 16 or less"
    trailing = (1,) * (layer._feature_dims - 1)
    return WholeProduct(
        layer,
        codes=layer.as_weight(rows),
        sums=layer.as_weight(rows.sum(1, keepdim=True)),
        half=half.view(-1, *trailing),
        bias=None if layer.bias is None else layer.bias.detach().double().view(-1, *trailing),
        last=last,
    )


def half_steps(layer: QuantizedLayer) -> tuple[Tensor, Tensor] | None:
    """Weights in half steps, output channels first, and half a step of each channel; None where there is none."""
    values = layer.outputs_first(layer.grid_weight())
    size = magnitude(values, layer.per_channel)
    # The second for grids that reach to their own largest value, whatever the weights were (ternary ones, DoReFa's).
    for steps in (grid_steps(layer), step_size(-size, size, layer.weight_bits)):
        half = steps.double().clamp_min(_TINY).view(-1, *(1 for _ in values.shape[1:])) / 2
        codes = (values.double() / half).round() + 0.0
        if bool(((codes * half - values).abs() <= values.abs() * _ROUNDED).all()):
            return codes, half
    return None


def grid_steps(layer: QuantizedLayer) -> Tensor:
    """The step of the grid of each group of weights, if they have one."""
    kept, width = layer.weight_quantizer, layer.weight_bits
    if layer._is_stored and getattr(kept, "step", None) is not None:  # out of a packed file
        stored: Tensor = kept.step_at(width)  # type: ignore[operator, union-attr]
        return stored
    rows = layer.rotated_rows()
    if isinstance(kept, LearnedGrid):
        return kept.step(readable(rows, width))  # as the layer took it, for the last bit's sake
    if layer.quantizer.step is not None:
        return layer.quantizer.step(rows, readable(rows, width), layer.per_channel)
    size = magnitude(rows, layer.per_channel)
    return step_size(-size, size, width)
