"""The quantizers by name: what a layer needs to know of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from bitdial.errors import BitdialError, suggest
from bitdial.numerics.learned_ternary import (
    LearnedStepWeight,
    LearnedWeight,
    TrainedTernaryWeight,
    ternary_lsq_weight,
    ttq_weight,
)
from bitdial.numerics.reference import UNQUANTIZED
from bitdial.numerics.weights import (
    TERNARY_BITS,
    absmean_weight,
    dorefa_weight,
    twn_weight,
    uniform_values,
    uniform_weight,
)

GRANULARITIES = ("channel", "tensor")


@dataclass(frozen=True)
class Quantizer:
    """A family of grids for weights and activations.

    Attributes:
        name: what users call it.
        weight: differentiable ``(weight, bits, per_channel) -> weight on the grid``; where scales are learned, with
            those that a new layer begins with.
        activation_range: fixed ends of the activations' grid, clipped to; None: minimum and maximum of the batch while
            training (nothing is clipped), their running average in evaluation.
        granularity: one weight range per output ``"channel"``, or one per ``"tensor"``, unless the user says otherwise.
        scales: how many scales a weight range has.
        fixed_bits: the width of weights whose grid no dial can widen or narrow: any width below 32 means this one.
            None: the grid follows the dial.
        values: `weight` without autograd, where its gradient passes unchanged: a layer then saves the detour.
        make_weight: ``(weight, per_channel) -> module`` that learns the scales of one layer; None: nothing is learned.
    """

    name: str
    weight: Callable[[Tensor, Tensor, bool], Tensor]
    activation_range: tuple[float, float] | None
    granularity: str
    scales: int = 1
    fixed_bits: float | None = None
    make_weight: Callable[[Tensor, bool], LearnedWeight] | None = None
    values: Callable[[Tensor, Tensor, bool], Tensor] | None = None

    def weight_width(self, bits: float) -> float:
        """The width that weights really have where a dial stands at `bits`."""
        return bits if self.fixed_bits is None or bits >= UNQUANTIZED else self.fixed_bits


QUANTIZERS = MappingProxyType(
    {
        "uniform": Quantizer("uniform", uniform_weight, None, "channel", values=uniform_values),
        "dorefa": Quantizer("dorefa", dorefa_weight, (0.0, 1.0), "tensor"),
        "twn": Quantizer("twn", twn_weight, None, "channel", fixed_bits=TERNARY_BITS),
        "absmean": Quantizer("absmean", absmean_weight, None, "tensor", fixed_bits=TERNARY_BITS),
        "ttq": Quantizer("ttq", ttq_weight, None, "tensor", 2, TERNARY_BITS, TrainedTernaryWeight),
        "ternary_lsq": Quantizer(
            "ternary_lsq", ternary_lsq_weight, None, "channel", 1, TERNARY_BITS, LearnedStepWeight
        ),
    }
)


def get_quantizer(name: str) -> Quantizer:
    """Look a quantizer up by its name.

    Raises:
        BitdialError: there is none of that name; the message lists those there are.
    """
    if not isinstance(name, str) or name not in QUANTIZERS:
        known = ", ".join(QUANTIZERS)
        raise BitdialError(f"quantizer must be one of {known}, got {name!r}{suggest(str(name), QUANTIZERS)}")
    return QUANTIZERS[name]
