"""The quantizers by name: what a layer needs to know of each, for its weights and for its activations.

A quantizer is registered where it is defined: `register` and `register_activations` are called beside its functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

from bitdial.errors import BitdialError, suggest
from bitdial.numerics.reference import UNQUANTIZED

if TYPE_CHECKING:
    from bitdial.numerics.learned_ternary import LearnedWeight

GRANULARITIES = ("channel", "tensor")


@dataclass(frozen=True)
class ActivationQuantizer:
    """A family of grids for activations.

    Attributes:
        name: what users call it.
        range: fixed ends of the grid, clipped to; None: minimum and maximum of the batch while training (nothing is
            clipped), their running average in evaluation.
        make: makes the module of one layer that learns its grid, ``(x, bits) -> x on the grid`` (PACT's clip, LSQ's
            step), differentiable, x itself at 32 bits; None: nothing is learned. `range` does not count then.
    """

    name: str
    range: tuple[float, float] | None = None
    make: Callable[[], nn.Module] | None = None


@dataclass(frozen=True)
class Quantizer:
    """A family of grids for weights, and the activation quantizer that goes with it unless another is chosen.

    Attributes:
        name: what users call it.
        weight: differentiable ``(weight, bits, per_channel) -> weight on the grid``; where scales are learned, with
            those that a new layer begins with.
        granularity: one weight range per output ``"channel"``, or one per ``"tensor"``, unless the user says otherwise.
        scales: how many scales a weight range has.
        fixed_bits: the width of weights whose grid no dial can widen or narrow: any width below 32 means this one.
            None: the grid follows the dial.
        make_weight: ``(weight, per_channel) -> module`` that learns the scales of one layer; None: nothing is learned.
        values: `weight` without autograd, where its gradient passes unchanged: a layer then saves the detour.
        activations: name of the activation quantizer.
    """

    name: str
    weight: Callable[[Tensor, Tensor, bool], Tensor]
    granularity: str
    scales: int = 1
    fixed_bits: float | None = None
    make_weight: Callable[[Tensor, bool], LearnedWeight] | None = None
    values: Callable[[Tensor, Tensor, bool], Tensor] | None = None
    activations: str = "uniform"

    @property
    def activation_range(self) -> tuple[float, float] | None:
        """Fixed ends of the activations' grid."""
        return ACTIVATION_QUANTIZERS[self.activations].range

    def weight_width(self, bits: float) -> float:
        """The width that weights really have where a dial stands at `bits`."""
        return bits if self.fixed_bits is None or bits >= UNQUANTIZED else self.fixed_bits


_WEIGHTS: dict[str, Quantizer] = {}
_ACTIVATIONS: dict[str, ActivationQuantizer] = {}
QUANTIZERS: Mapping[str, Quantizer] = MappingProxyType(_WEIGHTS)
"""Name -> quantizer of weights, in the order of registration."""
ACTIVATION_QUANTIZERS: Mapping[str, ActivationQuantizer] = MappingProxyType(_ACTIVATIONS)
"""Name -> quantizer of activations."""

Q = TypeVar("Q", Quantizer, ActivationQuantizer)


def register(quantizer: Quantizer) -> Quantizer:
    """Make a quantizer of weights known by its name.

    Raises:
        BitdialError: the name is taken.
    """
    return _registered(quantizer, _WEIGHTS)


def register_activations(quantizer: ActivationQuantizer) -> ActivationQuantizer:
    """As `register`, for a quantizer of activations."""
    return _registered(quantizer, _ACTIVATIONS)


def _registered(quantizer: Q, known: dict[str, Q]) -> Q:
    if quantizer.name in known:
        raise BitdialError(f"there is a quantizer '{quantizer.name}' already; give the new one another name")
    known[quantizer.name] = quantizer
    return quantizer


def get_quantizer(name: str) -> Quantizer:
    """Look a quantizer up by its name.

    Raises:
        BitdialError: there is none of that name; the message lists those there are.
    """
    return _known("quantizer", name, QUANTIZERS)


def get_activation_quantizer(name: str) -> ActivationQuantizer:
    """As `get_quantizer`, for a quantizer of activations."""
    return _known("activation_quantizer", name, ACTIVATION_QUANTIZERS)


def _known(option: str, name: str, quantizers: Mapping[str, Q]) -> Q:
    if not isinstance(name, str) or name not in quantizers:
        near = suggest(str(name), quantizers)
        raise BitdialError(f"{option} must be one of {', '.join(quantizers)}, got {name!r}{near}")
    return quantizers[name]


register_activations(ActivationQuantizer("uniform"))
register_activations(ActivationQuantizer("dorefa", (0.0, 1.0)))
