"""Importance by Optuna: what matters comes first, whatever the runs lack; else a sentence says why not."""

from __future__ import annotations

import logging
import math
import random
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from bitdial.errors import BitdialError
from tests.search.conftest import Make
from tests.search.fabricate import odd, run, scatter


@pytest.mark.parametrize("evaluator", ["ped-anova", "fanova"])
@pytest.mark.parametrize("metric", ["val/accuracy", "val/loss"])
def test_what_matters_comes_first(analyzer_of: Make, evaluator: str, metric: str) -> None:
    shares = analyzer_of(scatter(120)).importance(metric, evaluator)
    assert list(shares)[:2] == ["lr", "optimizer"]
    assert shares["lr"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("evaluator", ["ped-anova", "fanova"])
def test_a_number_with_two_values_does_not_seem_to_decide(analyzer_of: Make, evaluator: str) -> None:
    """A short search: the loss falls with every rate, and the batch size is 2 in most of the best runs."""
    rates = [6.4, 13.3, 3.2, 10.4, 18.6, 10.3, 6.4, 2.2, 3.7, 24.5, 24.1, 1.2]
    sizes = [4, 2, 4, 2, 2, 2, 2, 2, 4, 4, 2, 2]
    runs = [
        run(str(number), {"lr": rate * 1e-4, "batch_size": size}, {"loss": 300 / rate})
        for number, (rate, size) in enumerate(zip(rates, sizes, strict=True))
    ]
    shares = analyzer_of(runs).importance("loss", evaluator)
    assert shares["lr"] > 0.9


def test_the_direction_is_that_of_the_metric(analyzer_of: Make) -> None:
    """Only what is good is looked at: `a` decides among the best, `b` among the worst."""
    draw = random.Random(0)
    runs = []
    for number in range(200):
        a, b = draw.random(), draw.random()
        value = (10 + a if b > 0.9 else 0) + (b if b < 0.5 else 0.5)
        runs.append(run(str(number), {"a": a, "b": b}, {"thing": value}))
    analyzer = analyzer_of(runs)
    assert analyzer.study("thing").direction.name == "MAXIMIZE"
    assert analyzer.study("thing", maximize=False).direction.name == "MINIMIZE"
    highest, lowest = analyzer.importance("thing"), analyzer.importance("thing", maximize=False)
    assert highest["a"] > lowest["a"]


def test_runs_are_trials_with_what_they_have(analyzer_of: Make) -> None:
    runs = [
        *odd(),
        run("bad", {"a b": 1}, {"accuracy": 0.99}, "failed"),
        run("cut", {"a b": 1}, {"accuracy": 0.9}, "pruned"),
    ]
    study = analyzer_of(runs).study("accuracy")
    trials = study.get_trials()
    assert [trial.user_attrs["name"] for trial in trials] == [each.name for each in runs]
    states = [trial.state for trial in trials]
    assert states.count(TrialState.COMPLETE) == 10
    assert states[-2:] == [TrialState.FAIL, TrialState.PRUNED]
    assert [states[3], states[5]] == [TrialState.FAIL] * 2  # NaN and infinity
    assert "only.sgd.momentum" not in trials[0].params
    assert trials[1].params["only.sgd.momentum"] == pytest.approx(0.1)
    assert [trials[i].params["mixed"] for i in range(5)] == ["1", "auto", "None", "True", "2.5"]
    assert trials[0].params["betas"] == "[0.8,0.99]"
    assert study.best_trial.value == 11 / 12


@pytest.mark.parametrize("evaluator", ["ped-anova", "fanova"])
def test_odd_parameters_are_assessed_all_the_same(analyzer_of: Make, evaluator: str) -> None:
    shares = analyzer_of(odd()).importance("accuracy", evaluator)
    assert all(math.isfinite(share) and share >= 0 for share in shares.values())
    assert ("only.sgd.momentum" in shares) == (evaluator == "ped-anova")  # fANOVA needs a parameter in every run


@pytest.mark.parametrize(
    "values",
    [
        [10**400, 1, 2, 3],
        [1e308, -1e308, 0.0, 1.0],
        [2**63, 2**64, 1, 2],
        [5e-324, 1.0, 2.0, 3.0],
        [math.nan, math.inf, 1.0, 2.0],
        [None, 1.0, 1.0, None],
        [0, -0.0, 1, 1],
    ],
)
def test_extreme_values_of_a_parameter(analyzer_of: Make, values: list[Any]) -> None:
    runs = [run(str(i), {"x": values[i % 4], "y": i % 3}, {"loss": float(i)}) for i in range(12)]
    shares = analyzer_of(runs).importance()
    assert all(math.isfinite(share) for share in shares.values())


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ([run(str(i), {"x": i}, {"loss": float(i)}) for i in range(3)], "needs 4 finished runs or more .*, got 3"),
        ([run(str(i), {"x": i}, {"loss": math.nan}) for i in range(9)], "with a finite loss, got 0"),
        ([run(str(i), {"x": 1}, {"loss": float(i)}) for i in range(9)], "a parameter in which runs differ, got none"),
        (
            [run(str(i), {"seed": i}, {"loss": float(i)}) for i in range(9)],
            "a parameter in which runs differ, got none",
        ),
        ([run(str(i), {"x": i}, {"loss": 2.0}) for i in range(9)], "runs that differ in loss, got 2 in all"),
        ([run(str(i), {"x": i}, {"accuracy": 1.0 - i // 19}) for i in range(19)], "runs that differ in accuracy"),
        ([run(str(i), {"x": i}, {"accuracy": 0.0 + i // 8}) for i in range(10)], "got 0 as accuracy in too many"),
    ],
)
def test_a_sentence_instead_of_numbers(analyzer_of: Make, runs: list[Any], says: str) -> None:
    with pytest.raises(BitdialError, match=says):
        analyzer_of(runs).importance()


def test_fanova_needs_a_parameter_that_all_runs_have(analyzer_of: Make) -> None:
    runs = [run(str(i), {f"only.{i % 2}": i}, {"loss": float(i)}) for i in range(8)]
    with pytest.raises(BitdialError, match="fANOVA needs a parameter that every run has, got none; use ped-anova"):
        analyzer_of(runs).importance(evaluator="fanova")


def test_optuna_is_silent_and_stays_as_it_was(analyzer_of: Make, capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.INFO)
    try:
        analyzer_of(scatter(20)).importance()
        assert optuna.logging.get_verbosity() == logging.INFO
    finally:
        optuna.logging.set_verbosity(before)
    assert capfd.readouterr() == ("", "")
