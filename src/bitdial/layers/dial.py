"""The dial: the handle that turns a model's widths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers.convert import match_layers
from bitdial.layers.names import plain_names
from bitdial.layers.quantized import QuantizedLayer
from bitdial.numerics import check_bits

Bits = float | Sequence[float]
"""One width for every layer that is meant, or a list with one for each."""

_PARTS = ("weights", "activations", "gradients")
_BUFFERS = dict(zip(_PARTS, ("weight_bits", "activation_bits", "gradient_bits"), strict=True))


class BitDial:
    """Reads and turns the widths of a model's quantized layers: all, a pattern of names, or one.

    The widths live in the model, as buffers: the dial has no state of its own, any number of dials may hold one model,
    and a state dict of the model brings them along. Turning a dial writes buffers and never recompiles a graph.

    Args:
        model: a model that went through `bitdial.quantize` (bare, or wrapped for distributed training or compiled).

    Attributes:
        names: the quantized layers' names, in the model's order.

    Raises:
        BitdialError: the model has no quantized layer.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise BitdialError(f"model must be a torch.nn.Module, got {type(model).__name__}; pass the model itself")
        layers = {name: m for name, m in plain_names(model).items() if isinstance(m, QuantizedLayer)}
        if not layers:
            raise BitdialError("model must have quantized layers, got none; call bitdial.quantize(model) first")
        self._layers = layers
        self.names = tuple(layers)

    def __len__(self) -> int:
        """Number of quantized layers."""
        return len(self.names)

    def __repr__(self) -> str:
        """One line a layer: name and widths."""
        rows = zip(self.names, self.weights, self.activations, strict=True)
        return "BitDial(\n" + "".join(f"  {n}: weights={w:g}, activations={a:g}\n" for n, w, a in rows) + ")"

    @property
    def weights(self) -> list[float]:
        """Width of each layer's weights, in the order of `names`."""
        return self._read("weights")

    @property
    def activations(self) -> list[float]:
        """Width of each layer's input activations, in the order of `names`."""
        return self._read("activations")

    @property
    def gradients(self) -> list[float]:
        """Width of each layer's gradients, in the order of `names`; 32 where gradients are not quantized."""
        return self._read("gradients")

    def set(
        self,
        bits: Bits | None = None,
        *,
        weights: Bits | None = None,
        activations: Bits | None = None,
        gradients: Bits | None = None,
        layers: str = "*",
    ) -> None:
        """Turn the dial. Either every value is good and all are written, or none is.

        Ternary weights know two settings: at 32 they are unquantized, at any other width ternary, which reads 1.585.

        Args:
            bits: width of weights and activations.
            weights, activations, gradients: width of one part; they take precedence over `bits`.
            layers: name or pattern of the layers that are meant (``"layer1.*"``, ``"<first>"``).

        Raises:
            BitdialError: a width outside [1, 32], a list of the wrong length, a pattern without a match, or gradient
                widths for a model that was built without gradient quantization.
        """
        chosen = self.names if layers == "*" else match_layers(self.names, layers)
        wanted = {"weights": bits, "activations": bits}
        for part, value in zip(_PARTS, (weights, activations, gradients), strict=True):
            if value is not None:
                wanted[part] = value
        buffers: list[Tensor] = []
        numbers: list[float] = []
        for part, value in wanted.items():
            if value is None:
                continue
            for name, width in zip(chosen, _spread(value, chosen), strict=True):
                width = check_bits(width, f'layer "{name}"')
                buffer = getattr(self._layers[name], _BUFFERS[part])
                if buffer is None:
                    if width == 32:
                        continue
                    raise BitdialError(
                        f'gradients of layer "{name}" must stay at 32 bits, got {width:g}; '
                        "build the model with quantize(model, gradients=...) to quantize them"
                    )
                buffers.append(buffer)
                numbers.append(self._layers[name].quantizer.weight_width(width) if part == "weights" else width)
        with torch.no_grad():
            for buffer, number in zip(buffers, numbers, strict=True):
                buffer.fill_(number)

    @contextmanager
    def held(
        self,
        bits: Bits | None = None,
        *,
        weights: Bits | None = None,
        activations: Bits | None = None,
        gradients: Bits | None = None,
        layers: str = "*",
    ) -> Iterator[BitDial]:
        """Turn the dial for the length of a ``with`` block, and back at its end, errors included."""
        before = self.state_dict()
        try:
            self.set(bits, weights=weights, activations=activations, gradients=gradients, layers=layers)
            yield self
        finally:
            self.load_state_dict(before)

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Every width as plain numbers: part -> layer name -> width."""
        return {part: dict(zip(self.names, self._read(part), strict=True)) for part in _PARTS}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Turn the dial to what `state_dict` gave.

        Raises:
            BitdialError: the state is of a model with other layers.
        """
        widths: dict[str, Any] = {}
        for part in _PARTS:
            given = state.get(part, {}) if isinstance(state, Mapping) else state
            if not isinstance(given, Mapping) or set(given) != set(self.names):
                got = (", ".join(map(str, given)) or "none") if isinstance(given, Mapping) else type(given).__name__
                raise BitdialError(
                    f"dial state must have {part} for the layers {', '.join(self.names)}, "
                    f"got {got}; load it into the model that it came from"
                )
            widths[part] = [given[name] for name in self.names]
        self.set(**widths)

    def _read(self, part: str) -> list[float]:
        buffers = [getattr(layer, _BUFFERS[part]) for layer in self._layers.values()]
        return [32.0 if buffer is None else float(buffer.item()) for buffer in buffers]


def _spread(value: Bits, chosen: Sequence[str]) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * len(chosen)
    if len(value) != len(chosen):
        raise BitdialError(f"a list of bits must have one for each of the {len(chosen)} layers, got {len(value)}")
    return value
