"""``bitdial runs`` over jobs that stand-ins train."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitdial.app.jobs import JobManager
from bitdial.cli import main
from bitdial.commands.completion import words_at
from tests.app.stand_in import ENDLESS, ending_all, launch, lives, until, until_begun, until_ended


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobManager]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    with ending_all(JobManager("runs")) as manager:
        yield manager


def test_the_list_fits_a_terminal_and_takes_no_name_for_markup(
    jobs: JobManager, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = jobs.root / "[red]a very long name of a run that goes on and on[bold]"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("recipe: cyclic\nmodel: torchvision/mobilenet_v3_large\n")
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "[red]a" in out
    assert main(["runs", "--runs", "none"]) == 2
    jobs.remove(folder.name)
    assert main(["runs"]) == 0
    assert "no runs under runs" in capsys.readouterr().out


def test_watching_to_the_end(jobs: JobManager, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = launch(jobs, "print('[b]one[/b]')"), launch(jobs, "raise SystemExit('two')")
    assert main(["runs", "watch", good]) == 0
    assert "[b]one[/b]" in capsys.readouterr().out
    assert main(["runs", "watch", bad]) == 1
    assert "failed after" in capsys.readouterr().out


def test_ctrl_c_ends_the_watching_alone(jobs: JobManager) -> None:
    run = launch(jobs, ENDLESS)
    pid = until_begun(jobs, run)
    command = [sys.executable, "-u", "-m", "bitdial", "runs", "watch", run]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        for line in watching.stdout:
            if line == "begun\n":
                break
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert f"{run} goes on; `bitdial runs stop {run}` stops it" in said
    assert lives(pid)


def test_stop_resume_and_remove(jobs: JobManager, capsys: pytest.CaptureFixture[str]) -> None:
    run = launch(jobs, ENDLESS)
    until_begun(jobs, run)
    assert words_at(["runs", "stop", ""])[0] == run
    assert run not in words_at(["runs", "resume", ""])
    assert main(["runs", "rm", run, "--yes"]) == 2
    assert "stop it first" in capsys.readouterr().err
    assert main(["runs", "stop", run]) == 0
    assert main(["runs", "resume", run]) == 0
    os.kill(until(lambda: jobs.status(run).pid), signal.SIGKILL)  # type: ignore[arg-type]
    until_ended(jobs, run)
    assert main(["runs", "rm", run, "--yes"]) == 0
    assert jobs.list() == []
