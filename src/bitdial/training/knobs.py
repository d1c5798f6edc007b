"""Anything that a schedule turns while a network is trained, and what bits cost meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from bitdial.layers import Ledger
from bitdial.training.hooks import Hook
from bitdial.training.state import TrainingState
from bitdial.training.step.optimizer_step import StepResult

V = TypeVar("V")


class Knob(Hook, Generic[V]):
    """A schedule, a setter and a name: bits, a floating-point format, a balance of losses, a temperature.

    The knob stands at the schedule's value for step t while step t is under way, and at that of the next step after it
    (so that a checkpoint holds what comes next). A schedule is a pure function of the step, so that a knob needs no
    state to resume exactly. Its value is logged under its name and stands in the history of every step.

    Args:
        name: what the log calls it.
        schedule: step, from 0 -> value.
        turn: called with the value whenever it changes.
        shown: the value as a number, for log and history.
        rate: the value's factor on the learning rate; None: none.
    """

    def __init__(
        self,
        name: str,
        schedule: Callable[[int], V],
        turn: Callable[[V], object],
        *,
        shown: Callable[[V], float] = float,  # type: ignore[assignment]
        rate: Callable[[V], float] | None = None,
    ) -> None:
        self.name = name
        self.schedule = schedule
        self.turn = turn
        self.shown = shown
        self.rate = rate
        self._stands: tuple[V] | None = None
        self._number = 0.0

    @property
    def state_key(self) -> str:
        """Its name; there is no state, but two knobs of one name would write over each other's values."""
        return f"knob {self.name}"

    def before_step(self, state: TrainingState) -> None:
        """Stand at this step's value."""
        value = self._to(state.step)
        state.values[self.name] = self._number
        if self.rate is not None:
            state.lr_scale = self.rate(value)

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """Go to the next step's value."""
        self._to(state.step)

    def _to(self, step: int) -> V:
        value = self.schedule(step)
        if self._stands is None or self._stands[0] != value:
            self.turn(value)
            self._stands, self._number = (value,), self.shown(value)
        return value


Widths = tuple[float, ...]
"""One width for each quantized layer."""


class BitOpsCounter(Hook):
    """Counts what the steps cost at the widths of a schedule, and the mean of these.

    The widths are asked of the schedule and not of the dial: a dial on a GPU would make the host wait for the device.

    Args:
        widths: step -> width of weights and activations of each layer; where a step has several passes, of each pass.
        ledger: costs of the model.
        gradients: width of each layer's gradients.
    """

    def __init__(
        self, widths: Callable[[int], Widths | Sequence[Widths]], ledger: Ledger, gradients: Sequence[float]
    ) -> None:
        self.widths = widths
        self.ledger = ledger
        self.gradients = tuple(gradients)
        self.bitops = 0.0
        """Simulated BitOps of all steps."""
        self.bits_sum = 0.0
        """Sum over the steps of the mean forward width, weighted with multiply-accumulates."""
        self._known: tuple[Any, float, float] = ((), 0.0, 0.0)

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
            self._known = (widths, sum(costs), sum(means) / len(means))

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """Count the step (its batches are alike, on every process)."""
        examples = result.output.examples * len(result.batches) * state.fabric.world_size
        self.bitops += self._known[1] * examples
        self.bits_sum += self._known[2]

    def state_dict(self) -> dict[str, Any]:
        """The running sums."""
        return {"bitops": self.bitops, "bits_sum": self.bits_sum}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the sums."""
        self.bitops, self.bits_sum = float(state["bitops"]), float(state["bits_sum"])
