"""The quantizers by name: what a layer needs to know of each, for its weights and for its activations.

A quantizer is registered where it is defined: `register` and `register_activations` are called beside its functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from bitdial.errors import BitdialError, suggest
from bitdial.numerics.reference import UNQUANTIZED

if TYPE_CHECKING:
    from bitdial.numerics.learned_ternary import LearnedWeight

GRANULARITIES = ("channel", "tensor", "group:SIZE")


@dataclass(frozen=True)
class ActivationQuantizer:
    """A family of grids for activations.

    Attributes:
        name: what users call it.
        range: fixed ends of the grid, clipped to; None: minimum and maximum of the batch while training (nothing is
            clipped), their running average in evaluation.
        make: makes the module of one layer that learns its grid, ``(x, bits) -> x on the grid``, differentiable, x
            itself at 32 bits; None: nothing is learned. `range` does not count then.
        make_for: the same for a module that learns apart for each width (PACT's clip, LSQ's step), or has a grid for
            each token: called with ``widths``, those that have a state of their own (None: the usual ones), and
            ``feature_dims``, how many of the last dimensions of x are one token or, for convolutions, one example.
    """

    name: str
    range: tuple[float, float] | None = None
    make: Callable[[], nn.Module] | None = None
    make_for: Callable[..., nn.Module] | None = None

    def module(self, widths: Sequence[float] | None, feature_dims: int) -> nn.Module | None:
        """The module of one layer, or None where a range is enough."""
        if self.make_for is not None:
            return self.make_for(widths=widths, feature_dims=feature_dims)
        return self.make() if self.make is not None else None


@dataclass(frozen=True)
class Quantizer:
    """A family of grids for weights, and the activation quantizer that goes with it unless another is chosen.

    Attributes:
        name: what users call it.
        weight: differentiable ``(weight, bits, per_channel) -> weight on the grid``; where scales are learned, with
            those that a new layer begins with.
        granularity: one weight range per output ``"channel"``, one per ``"tensor"``, or one for each so many weights of
            a channel in a row (``"group:64"``), unless the user says otherwise.
        scales: how many scales a weight range has.
        fixed_bits: the width of weights whose grid no dial can widen or narrow: any width below 32 means this one.
            None: the grid follows the dial.
        make_weight: ``(weight, per_channel) -> module`` that learns the scales of one layer; None: nothing is learned.
        per_width: whether it learns them for each width apart, and takes ``widths`` too.
        values: `weight` without autograd, where its gradient passes unchanged: a layer then saves the detour.
        step: ``(weight, bits, per_channel) -> step`` of a grid that does not reach from -max|w| to max|w| and is not
            learned, in a shape that broadcasts against the weight.
        activations: name of the activation quantizer.
        whole_bits: the width that one which has no grid of its own stands for; None: every width has one.
        rotates: whether weights and activations are rotated (by a Hadamard matrix) before they go to their grids.
    """

    name: str
    weight: Callable[[Tensor, Tensor, bool], Tensor]
    granularity: str
    scales: int = 1
    fixed_bits: float | None = None
    make_weight: Callable[..., LearnedWeight] | None = None
    per_width: bool = False
    values: Callable[[Tensor, Tensor, bool], Tensor] | None = None
    step: Callable[[Tensor, Tensor, bool], Tensor] | None = None
    activations: str = "uniform"
    whole_bits: Callable[[float], Any] | None = None
    rotates: bool = False

    @property
    def activation_range(self) -> tuple[float, float] | None:
        """Fixed ends of the activations' grid."""
        return ACTIVATION_QUANTIZERS[self.activations].range

    def weight_width(self, bits: float) -> float:
        """The width that weights really have where a dial stands at `bits`."""
        if bits >= UNQUANTIZED:
            return bits
        if self.fixed_bits is not None:
            return self.fixed_bits
        return bits if self.whole_bits is None else float(self.whole_bits(bits))


_WEIGHTS: dict[str, Quantizer] = {}
_ACTIVATIONS: dict[str, ActivationQuantizer] = {}
QUANTIZERS: Mapping[str, Quantizer] = MappingProxyType(_WEIGHTS)
"""Name -> quantizer of weights, in the order of registration."""
ACTIVATION_QUANTIZERS: Mapping[str, ActivationQuantizer] = MappingProxyType(_ACTIVATIONS)
"""Name -> quantizer of activations."""

_ALIASES = {"ternary": "twn"}

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
    return _known("quantizer", _ALIASES.get(name, name) if isinstance(name, str) else name, QUANTIZERS)


def group_size(granularity: object) -> int | None:
    """Weights that share a scale at granularity ``"group:SIZE"``; None for ``"channel"`` and ``"tensor"``.

    Raises:
        BitdialError: it is none of the three.
    """
    if granularity in ("channel", "tensor"):
        return None
    kind, _, size = granularity.partition(":") if isinstance(granularity, str) else ("", "", "")
    if kind == "group" and size.isascii() and size.isdigit() and int(size) > 0:
        return int(size)
    known = ", ".join(GRANULARITIES)
    raise BitdialError(
        f"granularity must be one of {known}, got {granularity!r}{suggest(str(granularity), GRANULARITIES)}"
    )


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
