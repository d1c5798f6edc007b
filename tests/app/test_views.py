"""What runs say is text on a page and in the answers of the routes, whatever it would be elsewhere."""

from __future__ import annotations

import dataclasses
import json

import pytest

pytest.importorskip("fastapi", reason="the extra app is not installed")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from bitdial.app.jobs import JobManager
from bitdial.app.records import FileEntry
from bitdial.app.web import views
from bitdial.app.web.routes import add_routes
from tests.app.stand_in import ENDLESS, launch, until, until_begun, until_ended

HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>'\"&amp;"
TERMINAL = (
    "\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\ "
    "\x1b[2J\x9b1m\x9d0;title\x9c\x08\x00\x7fend"
)

CONTROLS = {chr(code) for code in (*range(32), *range(127, 160))} - {*"\n\t"}


def is_text(page: str) -> bool:
    return "<script" not in page and "<img" not in page and "&lt;script&gt;" in page


@pytest.fixture
def client(jobs: JobManager) -> TestClient:
    app = FastAPI()
    add_routes(app, jobs)
    return TestClient(app)


def test_output_is_text(jobs: JobManager, client: TestClient) -> None:
    run = launch(jobs, f"print({HTML!r}); print({TERMINAL!r}); import sys; sys.exit({HTML!r})")
    until_ended(jobs, run)
    answer = client.get(f"/api/runs/{run}/log?since=0")
    assert answer.headers["content-type"] == "application/json"
    text = answer.json()["text"]
    assert HTML in text
    assert not CONTROLS & {*text}
    assert "red" in text
    assert "end" in text
    assert "title" not in text
    assert "1m" not in text
    assert is_text(views.view("log", text, ""))
    status = client.get(f"/api/runs/{run}")
    assert status.headers["content-type"] == "application/json"
    assert HTML in status.json()["message"]
    assert "\x1b" not in status.json()["message"]
    assert is_text(views.progress(jobs.status(run)))


def test_what_files_of_a_run_say_moves_no_terminal(jobs: JobManager, capsys: pytest.CaptureFixture[str]) -> None:
    from bitdial.cli import main

    for name, told in (
        ("by-config", {}),
        ("by-progress", {"model": TERMINAL, "dataset": TERMINAL, "recipe": TERMINAL}),
    ):
        folder = jobs.root / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"recipe: joint\nmodel: {json.dumps(TERMINAL)}\n")
        told |= {"ended": "failed", "message": TERMINAL, "arm": TERMINAL, "updated": "soon"}
        told |= {"values": {TERMINAL: 1, f"best_{TERMINAL}": 1}, "score": {"value": 1, "what": TERMINAL}}
        (folder / "progress.json").write_text(json.dumps(told))
        status = jobs.status(name)
        assert "red" in status.model
        assert "end" in status.message
        assert not CONTROLS & {*"".join(map(str, dataclasses.astuple(status)))}
    assert main(["runs", "--runs", str(jobs.root)]) == 0
    assert not CONTROLS & {*capsys.readouterr().out}


def test_a_function_of_a_file_is_named_without_its_folder(jobs: JobManager) -> None:
    (jobs.root / "a").mkdir(parents=True)
    (jobs.root / "a" / "config.yaml").write_text("recipe: joint\nmodel: /long/way/my_nets.py:make\ndataset: digits\n")
    table = views.view("runs", [jobs.status("a")], "runs")
    assert '<td class="model" title="/long/way/my_nets.py:make">my_<wbr>nets.py:make</td><td>digits</td>' in table


def test_names_are_text_in_every_view(jobs: JobManager) -> None:
    folder = jobs.root / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"recipe: joint\nmodel: {json.dumps(HTML)}\ndataset: {json.dumps(HTML)}\n")
    (folder / "metrics.csv").write_text(f'phase,step,train_loss\n"{HTML.replace(chr(34), chr(34) * 2)}",1,2\n')
    status = dataclasses.replace(jobs.status("a"), id=HTML, message=HTML, state="failed")
    drawn = views.charts_of({HTML: views.all_rows(lambda since: jobs.series("a", since))})
    pages = [
        views.progress(status),
        views.view("runs", [status], HTML),
        views.view("compare", [status], {HTML: [HTML]}, drawn, [HTML]),
        views.view("charts", drawn, True),
        views.files(HTML, [FileEntry(HTML, 1)]),
        views.view("fault", HTML),
        views.command(HTML, [HTML], ""),
    ]
    assert all(map(is_text, pages))


def test_files_are_downloads_and_a_report_has_no_rights(jobs: JobManager, client: TestClient) -> None:
    folder = jobs.root / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("recipe: joint\n")
    for name in ("report.html", "results.json", "drawn.svg"):
        (folder / name).write_text(HTML)
    assert "sandbox" in client.get("/files/a/report.html").headers["content-security-policy"]
    for name in ("results.json", "drawn.svg", "config.yaml"):
        headers = client.get(f"/files/a/{name}").headers
        assert headers["content-type"] == "application/octet-stream"
        assert headers["content-disposition"].startswith("attachment")


def test_of_two_pages_that_start_on_one_device_one_waits_and_then_starts(jobs: JobManager, client: TestClient) -> None:
    here, there = JobManager(jobs.root), JobManager(jobs.root)
    first = launch(here, ENDLESS)
    until_begun(here, first)
    second = launch(there, "print('begun')")
    told = client.get(f"/api/runs/{second}").json()
    assert (told["state"], told["waiting_for"], told["alive"]) == ("waiting", first, True)
    assert is_waiting_for(first, views.progress(jobs.status(second)))
    here.stop(first, grace=0.1)
    until(lambda: client.get(f"/api/runs/{second}").json()["state"], lambda state: state == "finished")
    states = {each["id"]: each["state"] for each in client.get("/api/runs").json()}
    assert states[second] == "finished"
    assert states[first] in ("stopped", "failed", "stopping")


def is_waiting_for(run: str, page: str) -> bool:
    return f"<dt>waits for</dt><dd>{run} on cpu</dd>" in page
