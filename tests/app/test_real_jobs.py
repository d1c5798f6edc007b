"""Real trainings as jobs: stopped in the middle, resumed, found where they were started by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bitdial.app.jobs import JobManager
from bitdial.recipes import find_recipe
from tests.app.stand_in import until, until_ended


@pytest.mark.slow
def test_a_real_training_is_stopped_and_resumed_to_its_end(jobs: JobManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = {"model": "mlp", "dataset": "digits", "limit_train": 100, "limit_test": 50, "steps": 100000}
    run = jobs.start("joint", options)
    status = until(lambda: jobs.status(run), lambda each: (each.step or 0) > 20 or not each.alive)
    assert (status.state, status.recipe, status.model, status.total) == ("running", "joint", "mlp", 100000)
    assert status.values["loss"] > 0
    assert status.percent is not None
    assert jobs.series(run).rows
    jobs.stop(run)
    until_ended(jobs, run)
    stopped = jobs.status(run)
    assert stopped.state == "stopped"
    assert "stopped by SIGINT after step" in stopped.message
    jobs.resume(run)
    again = until(lambda: jobs.status(run), lambda each: (each.step or 0) > (stopped.step or 0) or not each.alive)
    assert again.state == "running"
    assert again.created == stopped.created
    jobs.stop(run)
    until_ended(jobs, run)


@pytest.mark.slow  # the quick one, of made-up files: test_what_folders_of_runs_by_hand_tell
def test_a_training_by_hand_and_its_score(jobs: JobManager, tmp_path: Path) -> None:
    words = ["train", "joint", "--model", "mlp", "--limit_train", "100", "--limit_test", "50", "--steps", "4"]
    folder = jobs.root / "by hand"
    subprocess.run([sys.executable, "-m", "bitdial", *words, "--run_dir", str(folder)], check=True, capture_output=True)
    status = jobs.status("by hand")
    assert (status.state, status.managed, status.model, status.percent) == ("finished", False, "mlp", 100)
    assert status.score is not None
    results = find_recipe("joint").results.load(folder / "results.json")
    assert status.score.value == max(each.value.mean for each in results.ships())
    assert "report.html" in [each.name for each in jobs.files("by hand")]
