"""What of a model goes into a packed file, under which names; and how a layer holds a weight that came out of one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.export.encoding import GRIDS, MOST_LEVELS, Encoded, Form, Trits, decode, encode
from bitdial.layers import QuantizedLayer
from bitdial.layers.names import plain_names
from bitdial.layers.quantized import STORED
from bitdial.layers.whole import grid_steps
from bitdial.layers.widths import SQUARES
from bitdial.numerics import UNQUANTIZED, levels
from bitdial.numerics.nested import CODE_BITS, NESTED, cut


class LayerRecord(BaseModel):
    """What a packed file says of one quantized layer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: str
    """Name of the layer's class."""
    options: dict[str, Any]
    """The arguments that the layer was made with (sizes, stride, ...)."""
    quantizer: str
    activations: str | None = None
    """The activation quantizer, where it is not the one that goes with `quantizer`."""
    granularity: str
    form: Form | None
    """How the weight is packed; None: it stands at 32 bits and is stored as it is."""
    levels: int
    groups: int
    shape: list[int]
    dtype: str


def bare(model: object) -> nn.Module:
    """The model itself, out of what compiles or distributes it.

    Raises:
        BitdialError: it is no module, has no quantized layer, tensors without data, or weights that are computed.
    """
    if not isinstance(model, nn.Module):
        raise BitdialError(f"model must be a torch.nn.Module, got {type(model).__name__}; pass the model itself")
    inner = plain_names(model)[""]
    if not any(isinstance(module, QuantizedLayer) for module in inner.modules()):
        raise BitdialError("model must have quantized layers, got none; call bitdial.quantize(model) first")
    for key, value in chain(inner.named_parameters(), inner.named_buffers()):
        if isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer) or value.is_meta:
            raise BitdialError(f"{key} must hold data, got a tensor without any; run or load the model first")
    for name, layer in quantized_layers(inner).items():
        if layer._parameters.get("weight") is None:
            raise BitdialError(
                f'layer "{name}" must have its weight as a parameter, got one that is computed in every pass '
                "(weight_norm, spectral_norm, pruning); make it permanent first, with "
                "torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove"
            )
    return inner


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantized layers by name; one that is used under several names has the first."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}


def packs(layer: QuantizedLayer) -> bool:
    """Whether the layer's weight is on a grid at all."""
    return float(layer.weight_bits.item()) < UNQUANTIZED


def describe(layer: QuantizedLayer, encoded: Encoded | None) -> LayerRecord:
    """The record of a layer."""
    return LayerRecord(
        kind=type(layer).__name__,
        options=json.loads(json.dumps({name: getattr(layer, name) for name in layer._shape})),  # tuples become lists
        quantizer=layer.quantizer.name,
        activations=None if layer.activation.name == layer.quantizer.activations else layer.activation.name,
        granularity=layer.granularity,
        form=encoded.form if encoded else None,
        levels=encoded.levels if encoded else 0,
        groups=encoded.groups if encoded else 0,
        shape=list(layer.outputs_first(layer.weight).shape),
        dtype=str(layer.weight.dtype).removeprefix("torch."),
    )


@torch.no_grad()
def encode_layer(name: str, layer: QuantizedLayer, trits: Trits) -> Encoded:
    """Pack the layer's quantized weight.

    Raises:
        BitdialError: it is not finite, or wider than 8 bits.
    """
    width = layer.weight_bits
    count = int(levels(width).item()) if width.item() <= 16 else MOST_LEVELS + 1
    if count > MOST_LEVELS:
        raise BitdialError(
            f'weights of layer "{name}" must be ternary or at most 8 bits to be packed, got {width.item():g} bits; '
            "turn the dial to 8 or less, or to 32 to store them unquantized"
        )
    weight = layer.grid_weight()
    if not bool(weight.isfinite().all()):
        raise BitdialError(f'weights of layer "{name}" must be finite to be packed, got NaN or infinity')
    steps = grid_steps(layer).flatten().cpu() if weight.numel() else None
    return encode(layer.outputs_first(weight), layer.scale_groups, count, trits, steps)


def plain_tensors(model: nn.Module, packed: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of a bare model that are stored as they are: the state without packed weights, each tensor once.

    What only training needs is left out: learned scales of packed weights, widths of gradients, squares of widths.

    Raises:
        BitdialError: a value is no tensor, or only a part of one.
    """
    layers = quantized_layers(model)
    chosen = {id(layers[name]) for name in packed}
    names = list(model.named_modules(remove_duplicate=False))
    left_out = {f"{name}." if name else "": id(m) in chosen for name, m in names if isinstance(m, QuantizedLayer)}
    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in model.state_dict(keep_vars=True).items():
        if _is_left_out(key, left_out) or id(value) in seen:
            continue
        kind = type(value).__name__
        if not isinstance(value, Tensor):
            raise BitdialError(f"a packed file can hold tensors only, got {kind} under {key} in the state")
        if hasattr(value, "full_tensor") or value.layout != torch.strided:
            raise BitdialError(f"{key} must be a whole dense tensor, got {kind}; gather the model first")
        seen.add(id(value))
        stored[key] = value
    return stored


def _is_left_out(key: str, prefixes: dict[str, bool]) -> bool:
    return any(
        key in (f"{prefix}gradient_bits", f"{prefix}{SQUARES}", f"{prefix}{STORED}")
        or (is_packed and (key == f"{prefix}weight" or key.startswith(f"{prefix}weight_quantizer.")))
        for prefix, is_packed in prefixes.items()
    )


def memory_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the values of some tensors, each counted once."""
    return sum({id(t): t.nbytes for t in tensors}.values())


class StoredWeight(nn.Module):
    """The `weight_quantizer` of a layer whose weight lies on its grid already: gives the weight as it is, at any width.

    Whether the dial says 2 bits or 32, nothing finer is left to return to. But weights on nested grids are cut to what
    the dial says, down from the width that they are stored at.

    Args:
        step: the step of each group of the grid; None where it has none.
        bits: the width that nested weights are stored at.
    """

    stored: Tensor
    step: Tensor | None

    def __init__(self, step: Tensor | None = None, bits: float | None = None) -> None:
        super().__init__()
        # In the state, so that no layer takes these weights for float ones and quantizes them again.
        self.register_buffer("stored", torch.empty(0))
        self.register_buffer("step", step, persistent=bits is not None)
        self.bits = bits

    def step_at(self, width: Tensor) -> Tensor:
        """The step of each group at a width."""
        assert self.step is not None
        return self.step if self.bits is None else self.step * 2.0 ** (self.bits - width.clamp_max(self.bits))

    def forward(self, weight: Tensor, bits: Tensor) -> Tensor:
        """The weight itself; of nested ones what their topmost bits say."""
        if self.bits is None:
            return weight
        assert self.step is not None
        finest = (self.step * 2.0 ** (self.bits - CODE_BITS)).view(-1, 1)
        return cut(weight.reshape(len(finest), -1), finest, bits.clamp_max(self.bits)).view(weight.shape)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        state_dict.setdefault(f"{prefix}stored", self.stored)  # states of before had none
        super()._load_from_state_dict(state_dict, prefix, *rest)


def store(layer: QuantizedLayer, encoded: Encoded) -> None:
    """Give a layer a weight from a packed file: a new parameter without gradient, in the layout of the old one."""
    old = layer.weight
    laid_out = torch.empty_like(old, requires_grad=False).copy_(layer.as_weight(decode(encoded)))
    layer.weight = nn.Parameter(laid_out, requires_grad=False)
    step = encoded.scales.to(old.device) if encoded.form in GRIDS else None
    bits = math.log2(encoded.levels) if layer.quantizer is NESTED and step is not None else None
    made = StoredWeight(step, bits).to(old.device)
    if not isinstance(layer.weight_quantizer, StoredWeight):
        layer.register_load_state_dict_pre_hook(_refuse_other_weights)  # type: ignore[no-untyped-call]
    layer.weight_quantizer = made


def _refuse_other_weights(layer: QuantizedLayer, state: Any, prefix: str, *rest: Any) -> None:
    """Float weights would pass a stored layer unquantized, without a word."""
    given = state.get(f"{prefix}weight")
    if given is not None and not torch.equal(given.to(layer.weight.device), layer.weight):
        raise BitdialError(
            f'layer "{prefix.rstrip(".")}" holds weights from a packed file and must keep them, got others; '
            "load checkpoints into a freshly quantized model"
        )
