"""What a trial reports while it trains, and when it is stopped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from bitdial.search.pruning import BY_PRUNER, TrialWatch
from bitdial.search.samplers import make_pruner


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", pruner=make_pruner("median"))
    for _ in range(5):
        trial = study.ask()
        for step, score in ((10, 0.5), (20, 0.7)):
            trial.report(score, step)
        study.tell(trial, 0.7)
    return study


def state(step: int, score: float, total: int | None = 100) -> Any:
    return SimpleNamespace(step=step, total_steps=total, scores={"accuracy": score}, stop_requested=None)


def begun(trial: optuna.Trial | None, *, reports: bool = True) -> TrialWatch:
    watch = TrialWatch(trial, "accuracy")
    watch.begin("a-seed0", reports=reports)
    return watch


@pytest.mark.parametrize(
    ("step", "score", "stops"), [(15, 0.4, True), (15, 0.6, False), (25, 0.6, True), (5, 0.1, False)]
)
def test_the_median_is_that_of_what_others_had_by_then(
    study: optuna.Study, step: int, score: float, stops: bool
) -> None:
    """Steps at which no other reported, as with another batch size."""
    watch, now = begun(study.ask()), state(step, score)
    watch.after_evaluation(now)
    assert (watch.pruned, now.stop_requested) == (stops, BY_PRUNER if stops else None)


def test_a_trial_at_its_last_step_is_not_pruned(study: optuna.Study) -> None:
    watch, now = begun(study.ask()), state(20, 0.1, total=20)
    watch.after_evaluation(now)
    assert (watch.pruned, now.stop_requested) == (False, None)
    assert study.trials[-1].intermediate_values == {20: 0.1}


def test_one_that_is_not_judged_reports_nothing(study: optuna.Study) -> None:
    for watch in (begun(study.ask(), reports=False), begun(None)):
        now = state(20, 0.1)
        watch.after_evaluation(now)
        watch.after_step(now, SimpleNamespace())  # type: ignore[arg-type]
        assert now.stop_requested is None
        assert (watch.steps, watch.planned) == ({"a-seed0": 20}, {"a-seed0": 100})
    assert study.trials[-1].intermediate_values == {}


def test_a_trial_that_is_tried_again_brings_its_scores_along(study: optuna.Study) -> None:
    first = begun(study.ask())
    first.after_evaluation(state(10, 0.6))
    again = begun(study.ask())
    again.load_state_dict(first.state_dict())
    again.after_evaluation(state(20, 0.8))
    assert study.trials[-1].intermediate_values == {10: 0.6, 20: 0.8}
    third = begun(study.ask())  # of the same trial, stopped after a report and taken up at a checkpoint before it
    third.trial = again.trial
    third.begin("a-seed0", reports=True)
    third.load_state_dict(first.state_dict())
    third.after_evaluation(state(20, 0.9))
    assert study.trials[6].intermediate_values == {10: 0.6, 20: 0.8}


def test_a_trial_that_was_taken_for_dead_stops(study: optuna.Study) -> None:
    trial = study.ask()
    watch, now = begun(trial), state(20, 0.9)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    watch.after_evaluation(now)
    assert isinstance(watch.lost, optuna.exceptions.UpdateFinishedTrialError)
    assert now.stop_requested is not None


@pytest.mark.parametrize("name", ["hyperband", "none"])
def test_other_pruners(name: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize", pruner=make_pruner(name), sampler=optuna.samplers.RandomSampler(0)
    )
    pruned = 0
    for number in range(30):
        trial = study.ask()
        watch = begun(trial)
        for step in range(1, 28):
            watch.after_evaluation(state(step, 1 / (number + 1)))
            if watch.pruned:
                break
        pruned += watch.pruned
        study.tell(trial, None if watch.pruned else 0.1, optuna.trial.TrialState.PRUNED if watch.pruned else None)
    assert (pruned > 0) == (name == "hyperband")
