"""Anything that a schedule turns while a network is trained, and what bits cost meanwhile."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Generic, TypeVar

from bitdial.layers import Ledger
from bitdial.numerics import UNQUANTIZED
from bitdial.training.hooks import Hook
from bitdial.training.state import TrainingState
from bitdial.training.step.optimizer_step import StepResult

V = TypeVar("V")


@dataclass(eq=False)
class Knob(Hook, Generic[V]):
    """A schedule, a setter and a name: bits, a floating-point format, a balance of losses, a temperature.

    The knob stands at the schedule's value for step t while step t is under way, and at that of the next step after it
    (so that a checkpoint holds what comes next). A schedule is a pure function of the step, so that a knob needs no
    state to resume exactly. Its value is logged under its name and stands in the history of every step.
    """

    name: str
    schedule: Callable[[int], V]
    """Step, from 0 -> value."""
    turn: Callable[[V], object]
    """Called with the value whenever it changes."""
    _: KW_ONLY
    shown: Callable[[V], float] = float  # type: ignore[assignment]
    """The value as a number, for log and history."""
    rate: Callable[[V], float] | None = None
    """The value's factor on the learning rate; None: none."""
    _stands: tuple[V, float] | None = field(default=None, init=False)

    def before_step(self, state: TrainingState) -> None:
        """Stand at this step's value."""
        value, state.values[self.name] = self._to(state.step)
        if self.rate is not None:
            state.lr_scale = self.rate(value)

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """Go to the next step's value."""
        self._to(state.step)

    def _to(self, step: int) -> tuple[V, float]:
        value = self.schedule(step)
        if self._stands is None or self._stands[0] != value:
            self.turn(value)
            self._stands = (value, self.shown(value))
        return self._stands


Widths = tuple[float, ...]
"""One width for each quantized layer."""


def mean_width(widths: Sequence[float]) -> float:
    """Return what a dial says: the plain mean over the quantized layers; 32 bits where there is none."""
    return statistics.fmean(widths) if widths else UNQUANTIZED


@dataclass(eq=False)
class BitOpsCounter(Hook):
    """Counts what the steps cost at the widths of a schedule, and the mean of these; logs ``cost_weighted_bits``.

    The widths are asked of the schedule and not of the dial: a dial on a GPU would make the host wait for the device.
    """

    widths: Callable[[int], Widths | Sequence[Widths]]
    """Step -> width of weights and activations of each layer; where a step has several passes, of each pass."""
    ledger: Ledger
    gradients: Sequence[float]
    """Width of each layer's gradients."""
    bitops: float = field(default=0.0, init=False)
    """Simulated BitOps of all steps."""
    bits_sum: float = field(default=0.0, init=False)
    """Sum over the steps of the mean forward width, weighted with multiply-accumulates: of unquantized layers too."""
    dial_sum: float = field(default=0.0, init=False)
    """Sum over the steps of the mean width of the quantized layers, which is what the dial says."""
    _known: tuple[Any, float, float, float] = field(default=(None, 0.0, 0.0, 0.0), init=False)

    @property
    def state_key(self) -> str:
        """What checkpoints have called it since before it was apart from the knob."""
        return "PrecisionHook"

    def before_step(self, state: TrainingState) -> None:
        """Look up what this step costs for one example."""
        widths = self.widths(state.step)
        if widths != self._known[0]:
            passes: Any = widths if widths and isinstance(widths[0], Sequence) else [widths]
            costs = [self.ledger.step_bitops(each, each, self.gradients).total for each in passes]
            means = [self.ledger.average_bits(each) for each in passes]
            dialled = sum(map(mean_width, passes)) / len(passes)
            self._known = (widths, sum(costs), sum(means) / len(means), dialled)
        state.values["cost_weighted_bits"] = self._known[2]

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """Count the step (its batches are alike, on every process)."""
        examples = result.output.examples * len(result.batches) * state.fabric.world_size
        self.bitops += self._known[1] * examples
        self.bits_sum += self._known[2]
        self.dial_sum += self._known[3]

    def state_dict(self) -> dict[str, Any]:
        """The running sums."""
        return {"bitops": self.bitops, "bits_sum": self.bits_sum, "dial_sum": self.dial_sum}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the sums."""
        self.bitops, self.bits_sum = float(state["bitops"]), float(state["bits_sum"])
        self.dial_sum = float(state.get("dial_sum", self.bits_sum))  # older checkpoints do not say
