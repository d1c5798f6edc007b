"""Which parameters mattered: runs as an Optuna study, assessed by Optuna's own evaluators."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from bitdial.errors import BitdialError
from bitdial.search.columns import Column
from bitdial.search.readers import FoundRun

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

Evaluator = Literal["ped-anova", "fanova"]
EVALUATORS: dict[str, str] = {"ped-anova": "PED-ANOVA", "fanova": "fANOVA"}
FEWEST = 4
"""Runs that an assessment needs at least; even then it is a guess."""
_FEW = 16
"""Up to so many different values a number may be a choice."""
_TOP = 5
"""How many runs PED-ANOVA's best part should hold, as its authors advise."""


def study_of(
    runs: Sequence[FoundRun], parameters: Sequence[Column], metric: Column, *, maximize: bool, chosen: Sequence[int]
) -> Study:
    """Return a study in memory with a trial for each run, the chosen ones complete where their metric is finite.

    A parameter that a run does not have, or that is no number where all others are, is left out of its trial, as Optuna
    does with conditional parameters.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    spaces = {column.name: space for column in parameters if (space := _distribution(column)) is not None}
    trials, counted = [], {*chosen}
    for index, run in enumerate(runs):
        params = {c.name: value for c in parameters if c.name in spaces and (value := c.at(index)) is not None}
        value = metric.at(index) if metric.numeric else None
        complete = value is not None and index in counted
        state = TrialState.COMPLETE if complete else TrialState.PRUNED if run.state == "pruned" else TrialState.FAIL
        trials.append(
            create_trial(
                state=state,
                value=float(value) if complete and value is not None else None,
                params=params,
                distributions={name: spaces[name] for name in params},
                user_attrs={"name": run.name, "source": run.source},
            )
        )
    loud = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize" if maximize else "minimize")
        study.add_trials(trials)
    finally:
        optuna.logging.set_verbosity(loud)
    return study


def importance_of(study: Study, metric: str, evaluator: str = "ped-anova") -> dict[str, float]:
    """Return of each parameter its share in how much the metric differs, the largest first; all together are 1.

    Raises:
        BitdialError: an unknown evaluator, or too few runs, or runs that differ in nothing.
    """
    if evaluator not in EVALUATORS:
        raise BitdialError(f"evaluator must be one of {', '.join(EVALUATORS)}, got {evaluator!r}")
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

    trials = study.get_trials(deepcopy=False)
    values = sorted(trial.value for trial in trials if trial.value is not None)
    if len(values) < FEWEST:
        raise BitdialError(
            f"importance needs {FEWEST} finished runs or more with a finite {metric}, got {len(values)}; make more runs"
        )
    if not any(trial.params for trial in trials):
        raise BitdialError("importance needs a parameter in which runs differ, got none; vary one")
    if values[0] == values[-1]:
        raise BitdialError(f"importance needs runs that differ in {metric}, got {values[0]:g} in all; take another")
    assess: Any
    if evaluator == "fanova":
        assess = FanovaImportanceEvaluator(seed=0)
    else:
        part = max(0.1, min(0.5, _TOP / len(values)))
        if study.direction == optuna.study.StudyDirection.MAXIMIZE:
            values.reverse()
        if values[math.ceil(part * len(values)) - 1] == values[-1]:
            raise BitdialError(
                f"importance needs runs that are better than others, got {values[-1]:g} as {metric} in too many; "
                "take another metric, or --evaluator fanova"
            )
        assess = PedAnovaImportanceEvaluator(target_quantile=part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as that a part of the evaluator is experimental
        found = get_param_importances(study, evaluator=assess)
    if not found:
        raise BitdialError(f"{EVALUATORS[evaluator]} needs a parameter that every run has, got none; use ped-anova")
    return {name: float(share) for name, share in sorted(found.items(), key=lambda pair: -pair[1])}


def _distribution(column: Column) -> BaseDistribution | None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not column.distinct:
        return None
    if column.numeric and not _is_choice(column):
        return FloatDistribution(column.distinct[0], column.distinct[-1], log=column.log)
    return CategoricalDistribution(column.distinct)


def _is_choice(column: Column) -> bool:
    """Whether a number was rather one of a few than anything between two.

    PED-ANOVA smooths numbers by kernels, which are so narrow between two or three values that any difference in how
    often each is among the best counts as all that mattered.
    """
    return len(column.distinct) <= min(_FEW, len(column.present) / 2)
