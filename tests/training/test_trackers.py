"""Trackers get what is logged, in one logged run for a folder, and cannot cost a run."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitdial.cli import main
from bitdial.errors import BitdialError
from bitdial.training import MetricsLog
from bitdial.training.metrics_log import CsvLog
from bitdial.training.trackers import TrackerName, check_tracker, tracked

Calls = list[tuple[str, Any]]


def fake(name: TrackerName, calls: Calls) -> Any:
    """What is called of a tracker, recorded."""

    def noted(what: str) -> Any:
        return lambda *values, **named: calls.append((what, values or named))

    if name == "wandb":
        module = SimpleNamespace(run=None, Settings=lambda **_: None)

        def init(**how: Any) -> None:
            calls.append(("init", how["id"]))
            module.run = SimpleNamespace(id=how["id"], log=noted("log"), finish=noted("finish"))

        module.init = init
        return module
    if name == "trackio":
        return SimpleNamespace(
            init=lambda **how: calls.append(("init", how["name"])), log=noted("log"), finish=noted("finish")
        )

    def start(run_id: str | None = None, run_name: str | None = None) -> Any:
        calls.append(("init", run_id or "new"))
        return SimpleNamespace(info=SimpleNamespace(run_id="new"))

    return SimpleNamespace(
        set_experiment=lambda name: None,
        log_params=lambda params: None,
        start_run=start,
        log_metrics=lambda values, step: calls.append(("log", (values,))),
        end_run=noted("finish"),
    )


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_one_logged_run_for_a_folder(name: TrackerName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    for step in (1, 2):  # the second time it is resumed
        monkeypatch.setitem(sys.modules, name, fake(name, calls))
        with tracked(name, tmp_path, {"lr": 0.1}), MetricsLog(tmp_path, scope={"arm": "cpt"}, tensorboard=False) as log:
            log.write({"step": step, "train_loss": 0.5})
    begun = [value for what, value in calls if what == "init"]
    assert begun[0] == begun[1]
    logged = [value[0] for what, value in calls if what == "log"]
    assert logged == [{"cpt/train/loss": 0.5, "cpt/step": 1}, {"cpt/train/loss": 0.5, "cpt/step": 2}]
    assert [what for what, _ in calls] == ["init", "log", "finish"] * 2


def test_a_step_after_the_last_checkpoint_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    for begins in (0, 1):  # the second time it goes on from the checkpoint at step 1
        monkeypatch.setitem(sys.modules, "mlflow", fake("mlflow", calls))
        with tracked("mlflow", tmp_path, {}), MetricsLog(tmp_path, tensorboard=False) as log:
            log.rewind(begins, begins)
            for step in range(begins + 1, begins + 4):
                log.write({"step": step, "train_loss": 0.5})
    assert [value[0]["step"] for what, value in calls if what == "log"] == [1, 2, 3, 4]
    assert [row["step"] for row in CsvLog(tmp_path / "metrics.csv").rows()] == ["1", "2", "3", "4"]


def test_a_tracker_that_fails_does_not_cost_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    module = fake("trackio", [])
    module.log = fails
    monkeypatch.setitem(sys.modules, "trackio", module)
    with tracked("trackio", tmp_path, {}), MetricsLog(tmp_path, tensorboard=False) as log:
        for step in (1, 2):
            log.write({"step": step, "loss": 0.5})
    assert caplog.text.count("the tracker failed (gone)") == 1
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 3
    module.init = fails
    with pytest.raises(BitdialError, match="trackio cannot begin a run"), tracked("trackio", tmp_path, {}):
        pass


def test_one_that_is_not_installed_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bitdial.training.trackers.importlib.util.find_spec", lambda _: None)
    with pytest.raises(BitdialError, match="log mlflow needs the package mlflow; run: pip install mlflow"):
        check_tracker("mlflow")
    assert main(["train", "joint", "--log", "mlflow"]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_run_of_trackio(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}  # is read when it is imported
    run = str(tmp_path / "run")
    words = ["--model", "tiny_cnn", "--steps", "3", "--bitwidth_options", "2", "8", "--no_sensitivity"]
    counts = []
    for more in (["--log", "trackio", *words, "--run_dir", run], ["--resume", run, "--seeds", "2"]):
        subprocess.run([sys.executable, "-m", "bitdial", "train", "joint", *more], env=environment, check=True)
        with sqlite3.connect(tmp_path / "trackio" / "bitdial.db") as database:
            counts.append(database.execute("select count(*), count(distinct run_name) from metrics").fetchone())
    (before, runs), (after, same) = counts
    assert runs == same == 1
    assert after > before > 0
