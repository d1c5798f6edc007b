"""A schedule that turns a dial: the schedule says which width, the dial writes it, the scheduler counts the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from bitdial.errors import BitdialError
from bitdial.layers.dial import BitDial
from bitdial.schedules import LayerSchedule


class PrecisionScheduler:
    """Turns every layer of a model to what a schedule says, one iteration at a time.

    The dial stands at iteration 0 from the start; call `step` after each training step, as with a learning-rate
    scheduler. The widths are a pure function of the iteration, so every process of a distributed run has the same.

    Args:
        model_or_dial: a quantized model, or a dial of one.
        schedule: ``(step, layer) -> width`` in [1, 32].
        gradients: width of the gradients throughout; 32 leaves them unquantized.

    Raises:
        BitdialError: the model has no quantized layers, or the schedule gives a width outside [1, 32].
    """

    def __init__(self, model_or_dial: nn.Module | BitDial, schedule: LayerSchedule, *, gradients: float = 32) -> None:
        self.dial = model_or_dial if isinstance(model_or_dial, BitDial) else BitDial(model_or_dial)
        self.schedule = schedule
        self.iteration = 0
        self.dial.set(gradients=gradients)
        self._turn()

    @property
    def bits(self) -> list[float]:
        """Width of each layer at this iteration, in the order of ``dial.names``."""
        return [float(self.schedule(self.iteration, layer)) for layer in range(len(self.dial))]

    def step(self) -> None:
        """Move one iteration on and turn the dial."""
        self.iteration += 1
        self._turn()

    def state_dict(self) -> dict[str, Any]:
        """Where the scheduler stands, as plain numbers."""
        return {"iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` stood, and turn the dial there.

        Raises:
            BitdialError: the state has no iteration of 0 or more.
        """
        iteration = state.get("iteration")
        if isinstance(iteration, bool) or not isinstance(iteration, int) or iteration < 0:
            raise BitdialError(f"scheduler state must have an iteration of 0 or more, got {iteration!r}")
        self.iteration = iteration
        self._turn()

    def _turn(self) -> None:
        self.dial.set(self.bits)
