"""What can be hung into the loop without the loop knowing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitdial.errors import BitdialError

if TYPE_CHECKING:
    from bitdial.training.state import TrainingState
    from bitdial.training.step.optimizer_step import StepResult


class Hook:
    """Something that acts between the steps: turns the dial, counts flipped weights, stops a run. Override at will.

    A hook may set ``state.lr_scale`` (this step's factor on the learning rate), put numbers into ``state.values``
    (logged and kept in the history of every step), and set ``state.stop_requested`` to a reason to stop the run as
    Ctrl-C does. What it must remember over a resume belongs into its `state_dict`.
    """

    per_layer = False
    """Whether its `metrics` are of single layers: they go to ``layers.csv`` then."""

    @property
    def state_key(self) -> str:
        """Name of this hook's state in a checkpoint; two stateful hooks of one class must differ in it."""
        return type(self).__name__

    def before_step(self, state: TrainingState) -> None:
        """Before the forward pass; ``state.step`` optimizer steps are done."""

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """After the optimizer step, counted in ``state.step``; `result` has its batches and whether it was applied."""

    def after_epoch(self, state: TrainingState) -> None:
        """After the last step of an epoch; ``state.epoch`` epochs are done."""

    def after_evaluation(self, state: TrainingState) -> None:
        """After an evaluation, whose means stand in ``state.scores``, the same in every process."""

    def on_checkpoint(self, state: TrainingState, path: Path) -> None:
        """After the checkpoint at `path` has reached the disk, which in the background takes as long as some steps."""

    def metrics(self, state: TrainingState) -> Mapping[str, float]:
        """Return numbers for a row of the log; asked only when a row is written, so they may cost something."""
        return {}

    def figures(self, state: TrainingState) -> Mapping[str, Any]:
        """Return matplotlib figures for the log, by tag; asked after an evaluation, in the first process only."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain numbers, strings and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""


def hooks_state(hooks: Sequence[Hook]) -> dict[str, dict[str, Any]]:
    """Return the states of all stateful hooks by their `state_key`; two of one key are refused (`BitdialError`)."""
    states: dict[str, dict[str, Any]] = {}
    for hook in hooks:
        state = hook.state_dict()
        if not state:
            continue
        if hook.state_key in states:
            raise BitdialError(
                f"two hooks have the state_key {hook.state_key!r}; give each its own by overriding state_key"
            )
        states[hook.state_key] = state
    return states
