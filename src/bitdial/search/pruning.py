"""What a trial tells its study while it trains: its scores, so that one that promises nothing is stopped early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bitdial.search.storage import faults
from bitdial.training import Hook, StepResult, TrainingState

if TYPE_CHECKING:
    from optuna.trial import Trial

BY_PRUNER = "the pruner"


class TrialWatch(Hook):
    """Counts the steps of a trial, reports the score of each evaluation, and stops training where the pruner says so.

    A trial may train several networks, one after the other: `begin` says which is next. Scores are reported of one of
    them only, whose steps are those of the reports.

    Args:
        trial: whom to tell; None where nothing is reported, with several metrics.
        metric: which score.
    """

    def __init__(self, trial: Trial | None, metric: str) -> None:
        self.trial = trial
        self.metric = metric
        self.steps: dict[str, int] = {}
        """Steps of each network."""
        self.planned: dict[str, int] = {}
        """Steps that each would take to its end."""
        self.pruned = False
        self.lost: BaseException | None = None
        """Why the study could not be told: the storage is gone, or the trial was taken for dead."""
        self._known: set[int] = set()
        self._curve: dict[int, float] = {}
        self._network, self._reports = "", False

    def begin(self, network: str, *, reports: bool) -> None:
        """Watch the next network; its scores are reported or not."""
        self._network, self._reports, self._curve = network, reports, {}
        if reports and self.trial is not None:  # a trial that is taken up again has told some of them
            self._known = set(self.trial.storage.get_trial(self.trial._trial_id).intermediate_values)

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """Count."""
        self.steps[self._network] = state.step
        self.planned[self._network] = state.step if state.total_steps is None else state.total_steps

    def after_evaluation(self, state: TrainingState) -> None:
        """Report the score, and those that a lost worker had told another trial; ask the pruner, unless it is over."""
        from optuna.exceptions import UpdateFinishedTrialError

        if not self._reports or self.trial is None:
            return
        self._curve[state.step] = state.scores[self.metric]
        losses: tuple[type[Exception], ...] = (UpdateFinishedTrialError, *faults())
        try:
            for step, score in self._curve.items():
                if step not in self._known:
                    self.trial.report(score, step)
                    self._known.add(step)
            self.pruned = state.step != state.total_steps and self.trial.should_prune()
            if self.pruned:
                state.stop_requested = BY_PRUNER
        except losses as error:
            self.lost = error
            state.stop_requested = "the loss of its study"

    def state_dict(self) -> dict[str, Any]:
        """The scores so far."""
        return {"curve": list(self._curve.items())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from them."""
        self._curve = {int(step): float(score) for step, score in state["curve"]}
