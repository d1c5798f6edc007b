"""The ledger: what each layer costs in multiply-accumulates, BitOps and bytes.

BitOps are *simulated*: multiply-accumulates x width of one factor x width of the other. Report wall-clock beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bitdial.layers.dial import Bits, spread
from bitdial.numerics import UNQUANTIZED, check_bits


class BitOps(NamedTuple):
    """Simulated BitOps of one training step for one example."""

    forward: float
    input_gradient: float
    weight_gradient: float

    @property
    def total(self) -> float:
        """All three products together."""
        return self.forward + self.input_gradient + self.weight_gradient


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Ledger:
    """Per-layer costs of a model for one example.

    Attributes:
        rows: the linear and convolution layers that were reached, in the model's order of definition, as in a dial.
        other_values: parameters and buffers outside those layers (norms), stored at 32 bits.
        count: ``"layer"``: every layer at its own widths, unquantized ones at 32, no gradient for the model's input.
            ``"cpt"``: as the Cyclic Precision Training paper counts, one width for the whole model, all layers alike.
        uncounted: modules that may compute products and are not in `rows`: attention, recurrent and other kinds without
            a count, and layers that the example did not reach.
    """

    rows: tuple[LedgerRow, ...]
    other_values: int
    count: Literal["layer", "cpt"] = "layer"
    uncounted: tuple[str, ...] = ()

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
        return "\n".join(lines)

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
