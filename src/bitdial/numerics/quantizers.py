"""The quantizers by name: what a layer needs to know of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from bitdial.errors import BitdialError, suggest
from bitdial.numerics.weights import dorefa_weight, uniform_weight

GRANULARITIES = ("channel", "tensor")


@dataclass(frozen=True)
class Quantizer:
    """A family of grids for weights and activations.

    Attributes:
        name: what users call it.
        weight: differentiable ``(weight, bits, per_channel) -> weight on the grid``.
        activation_range: fixed ends of the activations' grid, clipped to; None: minimum and maximum of the batch while
            training (nothing is clipped), their running average in evaluation.
        granularity: one weight range per output ``"channel"``, or one per ``"tensor"``, unless the user says otherwise.
    """

    name: str
    weight: Callable[[Tensor, Tensor, bool], Tensor]
    activation_range: tuple[float, float] | None
    granularity: str


QUANTIZERS = MappingProxyType(
    {
        "uniform": Quantizer("uniform", uniform_weight, None, "channel"),
        "dorefa": Quantizer("dorefa", dorefa_weight, (0.0, 1.0), "tensor"),
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
