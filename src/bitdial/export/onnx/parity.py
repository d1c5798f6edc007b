"""Whether a file computes what the network computes: node by node, and in a session as people open it.

Equality node by node cannot be asked of the outputs alone. A value that lies between two codes goes one way or the
other by the last bit of a sum, and all after it follows. So the codes of the file are put into the network, layer by
layer: each must be the network's own, or lie between two of its codes; and what comes out in the end must be equal
within float rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.export.calibration import ActivationGrid, activation_grid
from bitdial.export.onnx.folding import PRODUCTS
from bitdial.export.onnx.graph import Graph, layer_of
from bitdial.export.onnx.sessions import Session, with_outputs
from bitdial.export.onnx.traps import Trap
from bitdial.layers import QuantizedLayer
from bitdial.layers.arithmetic import Arithmetic
from bitdial.trees import tensors

ROUNDING = 1e-4
"""How far outputs of float32 may differ, as a share of the largest, where the same sums are taken in another order."""

UNCERTAIN = 1e-5
"""Share of rounded values that may be another code though they do not lie between two (5e-6 was met, in attention)."""

_MOVING = ("Pad", "Unsqueeze", "Squeeze", "Reshape", "Transpose")


@dataclass(frozen=True)
class Unfused:
    """What was found node by node.

    Attributes:
        difference: largest difference of an output, as a share of the largest output, with the codes of the file.
        activations: how many rounded values were compared.
        ties: how many of them lay between two codes and went the other way.
        wrong: how many were another code without that; where sums of float32 cancel, a value itself is less certain.
    """

    difference: float
    activations: int
    ties: int
    wrong: int

    @property
    def is_equal(self) -> bool:
        """Whether the file computes what the network computes."""
        return self.wrong <= UNCERTAIN * self.activations and self.difference <= ROUNDING


@dataclass(frozen=True)
class Agreement:
    """What was found in a session.

    Attributes:
        examples: how many were compared.
        classes: share of them that get the same class; None for networks that tell no classes.
        difference: largest difference of an output, as a share of the largest.
    """

    examples: int
    classes: float | None
    difference: float


@dataclass(frozen=True)
class Parity:
    """The proof that goes with a file.

    Attributes:
        unfused: node by node; None where no runtime can run the file so.
        session: in ONNX Runtime with the options that the file names.
        default: in ONNX Runtime without any, where options are named.
        openvino: in OpenVINO; None where it is not installed.
        traps: what makes a session differ.
        seconds: time of one batch by runtime and form, and how large that batch was.
    """

    unfused: Unfused | None
    session: Agreement | None
    default: Agreement | None = None
    openvino: Agreement | str | None = None
    traps: tuple[Trap, ...] = ()
    seconds: Mapping[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file's metadata."""
        return asdict(self)


def layer_codes(graph: Graph, names: Iterable[str]) -> dict[str, list[str]]:
    """Names of the values that hold the codes of each layer's input, one for each call, in order."""
    known, found = set(names), dict[str, list[str]]()
    for node in graph.graph:
        layer = layer_of(node, known) if node.op_type in PRODUCTS else None
        value = node.inputs[0]
        while layer is not None and value is not None and (made := value.producer()) is not None:
            if made.op_type == "DequantizeLinear":
                found.setdefault(layer, []).append(made.inputs[0].name)
            if made.op_type not in _MOVING:
                break
            value = made.inputs[0]
    return found


class _Forced(nn.Module):
    """A layer that takes the codes of the file for its input, and counts where its own are others."""

    def __init__(self, layer: QuantizedLayer, codes: list[np.ndarray]) -> None:
        super().__init__()
        self.layer, self.codes = (layer,), codes
        self.calls = self.total = self.ties = self.wrong = 0

    def forward(self, x: Tensor, arithmetic: Arithmetic) -> Tensor:
        """The layer's output for the codes of the file."""
        layer = self.layer[0]
        grid = activation_grid(layer, self.calls)
        assert isinstance(grid, ActivationGrid)
        assert grid.zero_point is not None
        given = torch.from_numpy(self.codes[self.calls].astype(np.int32))
        self.calls += 1
        place = (x.double() / grid.scale + grid.zero_point).clamp(0, grid.levels - 1)
        own = place.round().int()
        off = own != given
        near = max(2e-3, 1e-4 * grid.levels)  # what float32 leaves open of a value, in codes
        between = ((place - place.floor() - 0.5).abs() <= near) & ((own - given).abs() == 1)
        self.total += off.numel()
        self.ties += int((off & between).sum())
        self.wrong += int((off & ~between).sum())
        values = (given - grid.zero_point).float() * grid.scale
        return arithmetic.product(values, layer.quantized_weight(), layer.bias)


@torch.no_grad()
def unfused(reference: nn.Module, model: Any, codes: Mapping[str, list[str]], batch: Any) -> Unfused:
    """Compare a network and a file node by node.

    Args:
        reference: what `bitdial.export.calibration.calibrated` gave.
        model: the file's model.
        codes: what `layer_codes` gave.
        batch: inputs.
    """
    wanted = sorted({name for own in codes.values() for name in own})
    session = Session(with_outputs(model, wanted), fused=False)
    values = dict(zip(session.outputs, session(batch), strict=True))
    twin = copy.deepcopy(reference).eval()
    forced = []
    for name, own in codes.items():
        layer = twin.get_submodule(name)
        if isinstance(layer, QuantizedLayer) and isinstance(activation_grid(layer), ActivationGrid):
            forced.append(_Forced(layer, [values[each] for each in own]))
            vars(layer)["_product"] = forced[-1]
    outputs = [each.numpy() for each in tensors(twin(batch))]
    given = [value for name, value in values.items() if name not in wanted]
    return Unfused(
        difference=_difference(outputs, given),
        activations=sum(each.total for each in forced),
        ties=sum(each.ties for each in forced),
        wrong=sum(each.wrong for each in forced),
    )


def _difference(outputs: list[np.ndarray], given: list[np.ndarray]) -> float:
    """Largest difference as a share of the largest value of each output; infinite where one is not a number."""
    found = [0.0]
    for one, other in zip(outputs, given, strict=True):
        if one.shape != other.shape:
            raise BitdialError(f"the file must give outputs of the shape {one.shape}, got {other.shape}")
        if one.size and one.dtype.kind == "f":
            alike = np.array_equal(np.isfinite(one), np.isfinite(other))
            there = np.isfinite(one) & np.isfinite(other)
            largest = np.abs(one[there]).max(initial=0.0)
            gap = np.abs(one[there] - other[there]).max(initial=0.0) / max(largest, 1e-30)
            found.append(float(gap) if alike else float("inf"))
        elif one.size:
            found.append(float((one != other).mean()))
    return max(found)


class Counted:
    """Collects how far a session agrees with the network, batch by batch."""

    def __init__(self) -> None:
        self.examples = self.equal = 0
        self.difference = 0.0
        self.classes = True

    def add(self, outputs: list[np.ndarray], given: list[np.ndarray]) -> None:
        """Compare one batch."""
        self.difference = max(self.difference, _difference(outputs, given))
        one, other = outputs[0], given[0]
        self.examples += len(one)
        self.classes = self.classes and one.ndim == 2 and one.shape[1] > 1 and one.dtype.kind == "f"
        if self.classes:
            self.equal += int((one.argmax(1) == other.argmax(1)).sum())

    def agreement(self) -> Agreement:
        """What was found."""
        share = self.equal / max(self.examples, 1) if self.classes else None
        return Agreement(self.examples, share, self.difference)


@torch.no_grad()
def agreements(reference: nn.Module, sessions: Mapping[str, Any], batches: Iterable[Any]) -> dict[str, Agreement]:
    """How far sessions agree with a network, each over all batches.

    Args:
        reference: the network.
        sessions: what gives the outputs for a batch, by name.
        batches: inputs.
    """
    counts = {name: Counted() for name in sessions}
    for batch in batches:
        outputs = [each.detach().numpy() for each in tensors(reference(batch))]
        for name, session in sessions.items():
            counts[name].add(outputs, [np.asarray(each) for each in session(batch)])
    return {name: each.agreement() for name, each in counts.items()}
