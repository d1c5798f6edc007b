"""How large a packed model is, each figure under the name of what it is."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import Tensor, nn

from bitdial.export.container import from_bytes
from bitdial.export.contents import bare, memory_of, packs, plain_tensors, quantized_layers
from bitdial.export.encoding import GRIDS, Trits
from bitdial.export.packed import CODES, SCALES, key_of, packed_bytes
from bitdial.layers.widths import held_widths

_BUFFERS = ("weight_bits", "activation_bits", "range_low", "range_high", "range_batches")


@dataclass(frozen=True, repr=False)
class PackedSizes:
    """Sizes of a model in bytes.

    Attributes:
        packed_weights: number of weights that are packed.
        weights: their packed codes, and nothing else.
        scales: the scales that belong to them.
        other: everything else in the file that is data: unquantized layers, biases, norms, buffers.
        file: the whole file, as `save_packed` writes it, with its header.
        memory: parameters, buffers and widths of the loaded model. Packing does not lower it: weights are held as
            floating-point values.
        float32_weights: the packed weights as float32.
        float32: parameters and buffers of the unquantized model, floating-point values as float32.
    """

    packed_weights: int
    weights: int
    scales: int
    other: int
    file: int
    memory: int
    float32_weights: int
    float32: int

    @property
    def bits_per_weight(self) -> float:
        """Bits that one packed weight takes, without its scale."""
        return 8 * self.weights / max(self.packed_weights, 1)

    def __repr__(self) -> str:
        """The table, so that what is asked for at a prompt can be read."""
        return self.table()

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        return f"<pre>{html.escape(self.table())}</pre>"

    def table(self) -> str:
        """The sizes as text, each against float32."""
        lines = [f"{'':34} {'bytes':>13} {'float32':>13} {'ratio':>7}"]
        for name, mine, full in (
            (f"packed weights alone ({self.bits_per_weight:.3f} bits)", self.weights, self.float32_weights),
            ("packed weights with scales", self.weights + self.scales, self.float32_weights),
            ("whole file", self.file, self.float32),
            ("memory at run time", self.memory, self.float32),
        ):
            lines.append(f"{name:34} {mine:13,} {full:13,} {full / max(mine, 1):6.2f}x")
        return "\n".join(lines)


def packed_sizes(
    model: nn.Module, encoding: Trits = "base3", *, description: Mapping[str, Any] | None = None
) -> PackedSizes:
    """Sizes of a model as `save_packed` would write it at its widths now, as `load_packed` holds it, and in float32.

    Arguments and errors are those of `save_packed`.
    """
    inner = bare(model)
    data = packed_bytes(inner, encoding, description)
    layers = {name: layer for name, layer in quantized_layers(inner).items() if packs(layer)}
    tensors, described = from_bytes(data, "of the model")
    stored = plain_tensors(inner, layers)
    count = sum(layer.weight.numel() for layer in layers.values())
    own = {
        id(value)
        for layer in quantized_layers(inner).values()
        for value in (*(getattr(layer, name) for name in _BUFFERS), *_learned(layer))
    }
    plain = [tensor for tensor in stored.values() if id(tensor) not in own]
    learned = {id(value) for layer in layers.values() for value in _learned(layer)}
    widths = (width for module in inner.modules() for width in held_widths(module).values())
    held = (t for t in chain(inner.parameters(), inner.buffers(), widths) if id(t) not in learned)
    return PackedSizes(
        packed_weights=count,
        weights=sum(tensors[key_of(name, CODES)].nbytes for name in layers),
        scales=sum(tensors[key_of(name, SCALES)].nbytes for name in layers),
        other=memory_of(stored.values()),
        file=len(data),
        memory=memory_of(held) + sum(_kept(name, record, tensors) for name, record in described["layers"].items()),
        float32_weights=4 * count,
        float32=4 * count + sum(t.numel() * (4 if t.is_floating_point() else t.element_size()) for t in plain),
    )


def _kept(name: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """Bytes that a loaded layer keeps of its packed form: its steps."""
    return tensors[key_of(name, SCALES)].nbytes if record.get("form") in GRIDS else 0


def _learned(layer: nn.Module) -> list[nn.Parameter]:
    module = getattr(layer, "weight_quantizer", None)
    return [] if module is None else list(module.parameters())
