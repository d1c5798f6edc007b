"""The ledger: what each layer costs in multiply-accumulates, BitOps and bytes.

BitOps are *simulated*: multiply-accumulates x width of one factor x width of the other. Report wall-clock beside them.
"""

from __future__ import annotations

import html
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers.convert import KIND_NAMES, KINDS, reasons_against
from bitdial.layers.dial import Bits, spread
from bitdial.layers.names import check_model, evaluating, plain_names, uncompiled
from bitdial.layers.quantized import QuantizedLayer
from bitdial.numerics import UNQUANTIZED, check_bits, min_max
from bitdial.trees import map_tensors, tensors

UNLIKE = 2.0
"""How much wider one input of a layer may be than another, with one range for both: a bit is lost where it is more."""

_TINY = 1e-12
_LOOK_UPS = (nn.Embedding, nn.EmbeddingBag)  # they multiply nothing


class BitOps(NamedTuple):
    """Simulated BitOps of one training step for one example."""

    forward: float
    input_gradient: float
    weight_gradient: float

    @property
    def total(self) -> float:
        """All three products together."""
        return self.forward + self.input_gradient + self.weight_gradient


@dataclass(frozen=True, repr=False)
class LedgerRow:
    """One layer's part of the ledger.

    Attributes:
        name, kind: the layer's name and class.
        macs: multiply-accumulates of its forward product for one example.
        weights: number of weights; `parameters` adds the bias.
        scales: number of float32 scales that its packed weights need.
        quantized: whether its widths follow the dial; else it counts at 32.
        needs_input_gradient: False for a layer that reads the model's input: nobody needs that gradient.
        weight_bits, activation_bits, gradient_bits: widths when the ledger was taken.
        fixed_weight_bits: width of its weights at any setting below 32 (ternary weights); None: as the dial says.
    """

    name: str
    kind: str
    macs: int
    weights: int
    parameters: int
    scales: int
    quantized: bool
    needs_input_gradient: bool
    weight_bits: float
    activation_bits: float
    gradient_bits: float
    fixed_weight_bits: float | None = None


@dataclass(frozen=True, repr=False)
class Ledger:
    """Per-layer costs of a model for one example.

    Attributes:
        rows: the linear and convolution layers that were reached, in the model's order of definition, as in a dial.
        other_values: parameters and buffers outside those layers (norms), stored at 32 bits.
        count: ``"layer"``: every layer at its own widths, unquantized ones at 32, no gradient for the model's input.
            ``"cpt"``: as the Cyclic Precision Training paper counts, one width for the whole model, all layers alike.
        uncounted: modules that may compute products and are not in `rows`: attention, recurrent and other kinds without
            a count, and layers that the example did not reach.
        read: quantized layers whose weight another module read, perhaps instead of calling them: where it multiplies,
            the weight alone is quantized, and the product is not counted.
        unlike: quantized layers that were called several times on inputs whose ranges differ by more than `UNLIKE`:
            layer -> how many times as wide the widest is as the narrowest. One running range serves all calls (see
            `ranges_per_call`).
    """

    rows: tuple[LedgerRow, ...]
    other_values: int
    count: Literal["layer", "cpt"] = "layer"
    uncounted: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    unlike: Mapping[str, float] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward pass for one example."""
        return sum(row.macs for row in self.rows)

    def step_bitops(
        self, weights: Bits | None = None, activations: Bits | None = None, gradients: Bits | None = None
    ) -> BitOps:
        """BitOps of one training step for one example: forward w x a, input gradient w x g, weight gradient a x g.

        Args:
            weights, activations, gradients: one width, or one for each quantized layer in the model's order; the widths
                when the ledger was taken if None.

        Raises:
            BitdialError: a width outside [1, 32], or a list whose length is not the number of quantized layers.
        """
        given = {"weight_bits": weights, "activation_bits": activations, "gradient_bits": gradients}
        columns = [self._widths(bits, part) for part, bits in given.items()]
        forward = by_input = by_weight = 0.0
        for row, w, a, g in zip(self.rows, *columns, strict=True):
            forward += row.macs * w * a
            by_input += row.macs * w * g if row.needs_input_gradient or self.count == "cpt" else 0.0
            by_weight += row.macs * a * g
        return BitOps(forward, by_input, by_weight)

    def average_bits(self, bits: Bits | None = None) -> float:
        """Mean width of the forward factors over all layers, weighted by their multiply-accumulates.

        Args:
            bits: width of weights and activations, as in `step_bitops`; those of the ledger if None.
        """
        weights, activations = self._widths(bits, "weight_bits"), self._widths(bits, "activation_bits")
        pairs = zip(self.rows, weights, activations, strict=True)
        return sum(row.macs * (w + a) / 2 for row, w, a in pairs) / max(self.macs, 1)

    def size_bytes(self, weights: Bits | None = None) -> int:
        """Bytes that the model takes on disk with packed weights: weights at their width, everything else float32.

        Args:
            weights: as in `step_bitops`; a layer at 32 bits needs no scales.
        """
        total = 4 * self.other_values
        for row, width in zip(self.rows, self._widths(weights, "weight_bits"), strict=True):
            packed = row.quantized and width < UNQUANTIZED
            total += math.ceil(row.weights * width / 8) + 4 * (row.parameters - row.weights)
            total += 4 * row.scales if packed else 0
        return total

    def __repr__(self) -> str:
        """The table, so that what is asked for at a prompt can be read."""
        return self.table()

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        return f"<pre>{html.escape(self.table())}</pre>"

    def table(self) -> str:
        """The ledger as text: a line a layer, then the totals."""
        lines = [f"{'layer':28} {'kind':12} {'MACs':>12} {'weights':>10} {'w/a/g bits':>12} {'forward BitOps':>15}"]
        for row in self.rows:
            w, a, g = row.weight_bits, row.activation_bits, row.gradient_bits
            widths, ops = f"{w:g}/{a:g}/{g:g}", row.macs * w * a
            lines.append(f"{row.name:28} {row.kind:12} {row.macs:12,} {row.weights:10,} {widths:>12} {ops:15.4g}")
        total = self.step_bitops()
        lines.append(
            f"{self.macs:,} multiply-accumulates; simulated BitOps of a training step for one example: "
            f"{total.forward:.4g} forward + {total.input_gradient:.4g} input gradient + "
            f"{total.weight_gradient:.4g} weight gradient; {self.size_bytes():,} bytes packed"
        )
        if self.uncounted:
            lines.append(f"not counted: {', '.join(self.uncounted)}")
        if self.read:
            lines.append(
                f"weights that other modules read (what they multiply is not quantized): {', '.join(self.read)}"
            )
        lines += self.findings()
        return "\n".join(lines)

    def findings(self) -> list[str]:
        """What is doubtful about the model, a sentence each."""
        return [
            f'Layer "{name}" is called on inputs of which one has {ratio:.2g} times the range of another, and one '
            "running range serves them all: narrow inputs are rounded coarsely, wide ones are clipped in evaluation. "
            "bitdial.layers.ranges_per_call gives each call a range of its own."
            for name, ratio in self.unlike.items()
        ]

    def _widths(self, bits: Bits | None, part: str) -> list[float]:
        if bits is None:
            return [getattr(row, part) for row in self.rows]
        one_each = isinstance(bits, Sequence) and not isinstance(bits, str)
        turned = spread(bits, sum(row.quantized for row in self.rows)) if one_each else [bits] * len(self.rows)
        checked = iter([check_bits(width) for width in turned])
        everywhere = self.count == "cpt" and not one_each
        widths = [next(checked) if row.quantized or everywhere else UNQUANTIZED for row in self.rows]
        if part != "weight_bits":
            return widths
        fixed = (row.fixed_weight_bits for row in self.rows)
        return [w if f is None or w >= UNQUANTIZED else f for w, f in zip(widths, fixed, strict=True)]


def cost(model: nn.Module, example_input: Any, *, count: Literal["layer", "cpt"] = "layer") -> Ledger:
    """Take the ledger of a model by running one example through it.

    Args:
        model: quantized or not; nothing in it is changed, random state included.
        example_input: what the model takes, with a batch dimension; a tuple is passed as separate arguments, a mapping
            as keyword arguments; a mapping that is one argument stands in a tuple.
        count: see `Ledger`.

    Returns:
        The ledger, per example: the batch dimension is divided out.

    Raises:
        BitdialError: no linear or convolution layer was reached, `example_input` has no example, `count` is unknown.

    Example:
        >>> import torch
        >>> import bitdial as bd
        >>> net = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(4)])
        >>> ledger = bd.cost(bd.quantize(net, weights=4, activations=4), torch.randn(1, 8))
        >>> ledger.size_bytes(4)  # of all weights, the quantized layers' at 4 bits
        768
    """
    if count not in ("layer", "cpt"):
        raise BitdialError(f"count must be 'layer' or 'cpt', got {count!r}")
    check_model(model)
    arguments, named, batch = arguments_of(example_input)
    rows: dict[str, LedgerRow] = {}
    spans: dict[str, list[float]] = {}

    def record(name: str, layer: nn.Module, inputs: tuple[Any, ...], more: dict[str, Any], output: Tensor) -> None:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        x: Tensor = inputs[0] if inputs else next(iter(more.values()))
        scattered = isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d))  # one product for each value and weight
        macs = (x if scattered else output).numel() * (weight.numel() // weight.shape[0]) // batch
        bits = [getattr(layer, f"{part}_bits", None) for part in ("weight", "activation", "gradient")]
        w, a, g = (UNQUANTIZED if b is None else float(b.item()) for b in bits)
        quantizer = layer.quantizer if isinstance(layer, QuantizedLayer) else None
        if isinstance(layer, QuantizedLayer) and layer.has_one_range and x.numel():
            low, high = min_max(x.detach())
            spans.setdefault(name, []).append(float(high - low))
        before = rows.get(name)
        bias = getattr(layer, "bias", None)
        groups = layer.scale_groups if isinstance(layer, QuantizedLayer) else 1
        rows[name] = LedgerRow(
            name=name,
            kind=type(layer).__name__,
            macs=macs + (before.macs if before else 0),
            weights=weight.numel(),
            parameters=weight.numel() + (bias.numel() if bias is not None else 0),
            scales=groups * (quantizer.scales if quantizer else 1),
            quantized=quantizer is not None,
            needs_input_gradient=x.requires_grad or bool(before and before.needs_input_gradient),
            weight_bits=quantizer.weight_width(w) if quantizer else w,
            activation_bits=a,
            gradient_bits=g,
            fixed_weight_bits=quantizer.fixed_bits if quantizer else None,
        )

    modules = plain_names(model)
    layers = {n: m for n, m in modules.items() if isinstance(m, tuple(KINDS))}
    quantized = {n: m for n, m in layers.items() if isinstance(m, QuantizedLayer)}
    for layer in quantized.values():
        layer.is_read = False
    handles = [
        layer.register_forward_hook(lambda m, i, k, o, name=name: record(name, m, i, k, o), with_kwargs=True)
        for name, layer in layers.items()
    ]
    parameters = list(model.parameters())
    frozen = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:  # a frozen layer still hands its input's gradient on
            parameter.requires_grad_(parameter.is_floating_point())
        # Uncompiled: the hooks would break a compiled graph.
        eager = uncompiled()
        with eager, evaluating(model), torch.random.fork_rng(), torch.inference_mode(False), torch.enable_grad():
            model(*arguments, **named)
    finally:
        for handle in handles:
            handle.remove()
        for parameter, needed in zip(parameters, frozen, strict=True):
            parameter.requires_grad_(needed)
    if not rows:
        raise BitdialError(
            f"model must use {KIND_NAMES} layers, got {type(model).__name__} where the example reached none"
        )
    # The dial's order is the model's order of definition, so that lists of widths mean the same in both.
    ordered = tuple(rows[name] for name in layers if name in rows)
    learned = (m.weight_quantizer for m in quantized.values() if m.weight_quantizer)
    counted = sum(row.parameters for row in ordered) + sum(p.numel() for m in learned for p in m.parameters())
    buffers = sum(
        b.numel() for m in model.modules() if not isinstance(m, QuantizedLayer) for b in m.buffers(recurse=False)
    )
    uncounted = {**dict.fromkeys(layers), **reasons_against(modules)}.keys() - rows.keys()
    return Ledger(
        rows=ordered,
        other_values=sum(p.numel() for p in parameters) - counted + buffers,
        count=count,
        uncounted=tuple(n for n in modules if n in uncounted and not isinstance(modules[n], _LOOK_UPS)),
        read=tuple(n for n, m in quantized.items() if m.is_read),
        unlike={
            name: ratio
            for name, found in spans.items()
            if (ratio := max(found) / max(min(found), _TINY)) > UNLIKE and len(found) > 1
        },
    )


def arguments_of(example: Any) -> tuple[tuple[Any, ...], dict[str, Any], int]:
    """What to call the model with, and how many examples that is."""
    named = dict(example) if isinstance(example, Mapping) else {}
    positional = () if named else example if isinstance(example, tuple) else (example,)
    found = [value for value in tensors((*positional, *named.values())) if value.dim()]
    if not found or not len(found[0]):
        raise BitdialError(
            "example_input must hold a tensor with a batch of at least one, "
            f"got {f'shape {tuple(found[0].shape)}' if found else reprlib.repr(example)}; "
            "pass for instance torch.zeros(1, 3, 32, 32)"
        )

    def usable(value: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return value.clone() if value.is_inference() else value

    return map_tensors(usable, positional), map_tensors(usable, named), len(found[0])
