"""Which way a metric is better, as the study says that it was searched for."""

from __future__ import annotations

from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")
pytest.importorskip("pandas")

from optuna.storages import JournalStorage, RDBStorage  # noqa: E402
from optuna.storages.journal import JournalFileBackend  # noqa: E402

from bitdial.search import HyperparameterAnalyzer  # noqa: E402


def search(storage: object, direction: str, name: str | None = None) -> None:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.create_study(storage=storage, study_name=direction, direction=direction)
    if name is not None:
        study.set_user_attr("told", name)
        study._storage.set_study_system_attr(study._study_id, "study:metric_names", [name])
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("name", [None, "score", "loss"])
def test_a_study_says_which_way_is_better(tmp_path: Path, kind: str, direction: str, name: str | None) -> None:
    storage = (
        JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
        if kind == "journal"
        else RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    )
    search(storage, direction, name)
    if kind == "sqlite":
        storage.engine.dispose()
    analyzer = HyperparameterAnalyzer(tmp_path)
    best = analyzer.recommend_parameters(1, metric=None)
    x = analyzer.load_results()["x"]
    assert analyzer.default_metric == (name or "value")
    assert best["x"].iloc[0] == (x.max() if direction == "maximize" else x.min())
    assert all(run.larger_is_better == {name or "value": direction == "maximize"} for run in analyzer.runs)


def test_studies_that_contradict_each_other_say_nothing(tmp_path: Path) -> None:
    for direction in ("minimize", "maximize"):
        search(JournalStorage(JournalFileBackend(str(tmp_path / f"{direction}.log"))), direction, "psnr")
    analyzer = HyperparameterAnalyzer(tmp_path)
    assert analyzer.recommend_parameters(1, metric=None)["x"].iloc[0] == analyzer.load_results()["x"].max()  # its name
