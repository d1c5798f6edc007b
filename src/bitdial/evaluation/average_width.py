"""The average width of a model: one number for widths that differ from layer to layer."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from bitdial.errors import BitdialError, suggest
from bitdial.layers import BitDial, QuantizedLayer, cost
from bitdial.layers.convert import KINDS
from bitdial.layers.names import plain_names
from bitdial.numerics import UNQUANTIZED

_WEIGHINGS = ("layers", "parameters", "macs")
_PARTS = ("weights", "activations")


def get_average_bitwidth(
    model: nn.Module,
    *,
    weighted_by: Literal["layers", "parameters", "macs"] = "layers",
    part: Literal["weights", "activations"] = "weights",
    include_float: bool = False,
    example_input: Any = None,
) -> float:
    """Return the average width of a model's quantized convolutions and linear layers, at the widths that it has now.

    With widths b_l and a factor c_l for each layer, ``sum(c_l * b_l) / sum(c_l)``. By default every layer counts alike,
    and the width is that of its *weights*: a ternary weight reads 1.585 whatever its activations are.

    Args:
        model: a model that went through ``bitdial.quantize``, bare or wrapped; nothing in it is changed.
        weighted_by: what c_l is: 1 (``"layers"``), the layer's number of weights (``"parameters"``), or the
            multiply-accumulates of its forward pass (``"macs"``), which need `example_input`.
        part: whose width counts, that of ``"weights"`` or of input ``"activations"``.
        include_float: whether linear layers and convolutions that were left in floating point count, at 32 bits.
        example_input: as `bitdial.layers.cost` takes it: what the model takes, with a batch dimension.

    Returns:
        The average in bits, in [1, 32].

    Raises:
        BitdialError: a model without quantized layers, an unknown `weighted_by` or `part`, `"macs"` without an example
            or with one that reaches none of the layers.
    """
    for name, given, known in (("weighted_by", weighted_by, _WEIGHINGS), ("part", part, _PARTS)):
        if given not in known:
            hint = suggest(str(given), known)
            raise BitdialError(f"{name} must be one of {', '.join(known)}, got {given!r}{hint}")
    dial = BitDial(model)
    widths = dict(zip(dial.names, dial.weights if part == "weights" else dial.activations, strict=True))
    layers: dict[str, Any] = {n: m for n, m in plain_names(model).items() if isinstance(m, tuple(KINDS))}
    counted = {n: m for n, m in layers.items() if include_float or isinstance(m, QuantizedLayer)}
    factors = dict.fromkeys(counted, 1)
    if weighted_by == "parameters":
        factors = {name: layer.weight.numel() for name, layer in counted.items()}
    elif weighted_by == "macs":
        if example_input is None:
            raise BitdialError(
                'weighted_by="macs" needs an example_input to count multiply-accumulates with, got none; pass for '
                "instance example_input=torch.zeros(1, 3, 32, 32)"
            )
        macs = {row.name: row.macs for row in cost(model, example_input).rows}
        factors = {name: macs.get(name, 0) for name in counted}
    total = sum(factors.values())
    if not total:
        raise BitdialError("example_input must reach a layer that counts, got one that reaches none; pass another")
    return sum(factors[name] * widths.get(name, UNQUANTIZED) for name in counted) / total
