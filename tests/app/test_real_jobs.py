"""Real trainings as jobs: stopped in the middle, resumed, found where they were started by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from bitdial.app.jobs import JobManager
from bitdial.recipes import find_recipe
from tests.app.served import Served, serving
from tests.app.stand_in import ending_all, until, until_ended


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


@pytest.mark.slow
def test_two_pages_that_start_a_run_at_once_give_one_device_to_one_after_the_other(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra app is not installed")
    started = list[str]()
    with ending_all(JobManager(tmp_path / "runs")) as jobs, serving(tmp_path) as served:

        def start() -> None:
            started.append(answer_of(served, "train_joint", {"model": "tiny_cnn", "steps": "100000"}))

        pages = [threading.Thread(target=start) for _ in range(2)]
        for page in pages:
            page.start()
        for page in pages:
            page.join()
        assert sorted(started) == ["joint-1", "joint-2"]
        first = until(lambda: next((run for run in started if jobs.status(run).state == "running"), ""))
        (second,) = {*started} - {first}
        assert (jobs.status(second).state, jobs.status(second).waiting_for) == ("waiting", first)
        jobs.stop(first, grace=1)
        until(lambda: jobs.status(second).state, lambda state: state == "running")
        until_ended(jobs, first)


@pytest.mark.slow
def test_what_is_odd_is_told_in_a_sentence_of_the_page(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra app is not installed")
    with serving(tmp_path) as served:
        for filled, told in (
            ({"batch size": "many"}, "batch_size: expected a whole number, got &#39;many&#39;</p>"),
            ({"batch size": "-3"}, "batch_size: expected a value greater than or equal to 1, got &#39;-3&#39;</p>"),
            ({"model": "../x.py:make"}, "expected a network&#39;s name, got the file"),
            ({"model": "<img src=x>"}, "unknown model &#39;&lt;img src=x&gt;"),
            ({"model": "x" * 5000}, "unknown model &#39;xxx"),
        ):
            said = answer_of(served, "recommend", filled)
            assert told in said
            assert len(said) < 1200
            assert "<img" not in said


def answer_of(served: Served, name: str, filled: Mapping[str, str]) -> str:
    """What a button of a page answers whose fields are filled in, over the routes that the page uses."""
    with urllib.request.urlopen(f"{served.url}/gradio_api/info") as answer:
        fields = json.load(answer)["named_endpoints"][f"/{name}"]["parameters"]
    values = [filled.get(each["label"], each.get("parameter_default")) for each in fields]
    ask = urllib.request.Request(
        f"{served.url}/gradio_api/call/{name}",
        json.dumps({"data": values}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(ask) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{served.url}/gradio_api/call/{name}/{event}", timeout=60) as answer:
        told = answer.read().decode()
    assert "event: complete" in told, told
    return str(json.loads(told.partition("data: ")[2].splitlines()[0])[0])
