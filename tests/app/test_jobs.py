"""What a `JobManager` says of runs, and takes: ids, options, output, numbers, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bitdial.app.jobs import JobManager
from bitdial.app.output import MOST_TEXT
from bitdial.app.records import Score
from bitdial.errors import BitdialError
from tests.app.stand_in import launch, until_ended

NO_IDS = [
    "",
    ".",
    "..",
    "../runs/a",
    "a/b",
    "/etc",
    "a\0b",
    "a" * 300,
    ".queue",
    "\\a",
    "a\n",
    "link",
    "file",
    "\ud800",
]


def a_run(jobs: JobManager, name: str = "a", **files: str) -> Path:
    folder = jobs.root / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(files.pop("config", "recipe: joint\nmodel: mlp\ndataset: digits\n"))
    for file, content in files.items():
        (folder / file.replace("_", ".")).write_text(content)
    return folder


def test_importing_and_listing_bring_neither_torch_nor_gradio(jobs: JobManager) -> None:
    a_run(jobs)
    code = (
        "import sys; from bitdial.app import JobManager; jobs = JobManager(sys.argv[1]); jobs.list()\n"
        "assert not jobs.check('cyclic', {'lr': 1})\n"
        "print({'torch', 'gradio', 'matplotlib', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code, str(jobs.root)], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", NO_IDS)
def test_an_id_is_the_name_of_a_run_and_never_a_path(jobs: JobManager, tmp_path: Path, name: str) -> None:
    a_run(jobs)
    outside = a_run(JobManager(tmp_path / "elsewhere"), "b")
    (jobs.root / "link").symlink_to(outside)
    (jobs.root / "file").write_text("")
    for call in (jobs.status, jobs.log, jobs.series, jobs.files, jobs.stop, jobs.resume, jobs.remove):
        with pytest.raises(BitdialError, match="expected the id of a run"):
            call(name)
    assert [each.id for each in jobs.list()] == ["a"]
    assert outside.exists()


def test_a_mistyped_id_has_the_nearest_one(jobs: JobManager) -> None:
    a_run(jobs, "cyclic-1")
    with pytest.raises(BitdialError, match="got 'cyclc-1'; did you mean 'cyclic-1'"):
        jobs.status("cyclc-1")


def test_no_runs(tmp_path: Path) -> None:
    assert JobManager(tmp_path / "none").list() == []
    (tmp_path / "file").write_text("")
    with pytest.raises(BitdialError, match="expected a folder of runs"):
        JobManager(tmp_path / "file").list()


def test_everything_that_is_wrong_with_options_is_told_by_field(jobs: JobManager) -> None:
    options = {
        "lr": "fast",
        "epohcs": 3,
        "batch_size": 0,
        "cyclic.cycle_length": -1,
        "cyclic": {"bogus": 1},
        "compile": "maybe",
    }
    found = {each.field: each.message for each in jobs.check("cyclic", options)}
    assert {*found} == {"lr", "epohcs", "batch_size", "cyclic.cycle_length", "cyclic.bogus", "compile"}
    assert found["lr"] == "expected a number, got 'fast'"
    assert found["epohcs"] == "unknown setting 'epohcs'; did you mean 'epochs'?"
    with pytest.raises(BitdialError, match="epohcs: unknown setting"):
        jobs.start("cyclic", options)
    assert not jobs.root.exists()


@pytest.mark.parametrize(
    ("recipe", "options", "preset", "field"),
    [
        ("cyclc", {}, None, "recipe"),
        ("cyclic", {}, "nothing", "preset"),
        ("cyclic", {"model": "resnt20"}, None, "model"),
        ("cyclic", {"dataset": "mnst"}, None, "dataset"),
        ("cyclic", {"dataset": "folder", "data_path": "/no/where"}, None, "data_path"),
        ("cyclic", {"run_dir": "/tmp"}, None, "run_dir"),
        ("cyclic", {"resume": True}, None, "resume"),
        ("cyclic", {"resume": "/no/where"}, None, "resume"),
        ("cyclic", {"model": "/no/file.py:make"}, None, "model"),
        ("cyclic", {"cyclic": 3}, None, "cyclic"),
        ("cyclic", {"steps": 3, "epochs": 2}, None, ""),
        ("cyclic", {3: 4}, None, "3"),
        ("cyclic", {"lr": float("nan")}, None, "lr"),
        ("cyclic", [], None, ""),
    ],
)
def test_one_thing_that_is_wrong(recipe: str, options: dict[str, object], preset: str | None, field: str) -> None:
    found = JobManager("none").check(recipe, options, preset)
    assert [each.field for each in found] == [field]
    assert found[0].message


def test_options_as_they_are_given_are_the_file_that_the_run_gets(jobs: JobManager) -> None:
    from bitdial.app.checking import as_yaml

    text = as_yaml("cyclic", {"cyclic.cycle-length": 7, "cyclic": {"profile": "cosine"}, "learning_rate": 1e-5})
    assert yaml.safe_load(text) == {"recipe": "cyclic", "cyclic": {"cycle_length": 7, "profile": "cosine"}, "lr": 1e-5}


def test_what_folders_of_runs_by_hand_tell(jobs: JobManager) -> None:
    a_run(
        jobs, "old", results_json=json.dumps({"runs": [{"seed": 0, "scores": [{"accuracy": 0.5}, {"accuracy": 0.75}]}]})
    )
    a_run(jobs, "begun")
    a_run(jobs, "broken", config="[", progress_json="{", results_json="nonsense")
    told = {
        "ended": "failed",
        "message": "no [bold]",
        "began": 10.0,
        "updated": 12.5,
        "values": {"best_accuracy": 0.25},
    }
    a_run(jobs, "failed", progress_json=json.dumps(told))
    a_run(jobs, "killed", progress_json=json.dumps({"began": 1.0, "process": {"pid": 2**40, "started": "x"}}))
    (jobs.root / "empty").mkdir()
    found = {each.id: each for each in jobs.list()}
    assert {*found} == {"old", "begun", "broken", "failed", "killed"}
    assert (found["old"].state, found["old"].score) == ("finished", Score(0.75))
    assert (found["begun"].state, found["begun"].recipe, found["begun"].managed) == ("stopped", "joint", False)
    assert (found["failed"].state, found["failed"].message, found["failed"].seconds) == ("failed", "no [bold]", 2.5)
    assert found["failed"].score == Score(0.25)
    assert (found["killed"].state, found["broken"].state) == ("failed", "finished")


def test_output_comes_in_pieces(jobs: JobManager) -> None:
    run = launch(jobs, "print('é' * 100000); print('\\x1b[2J50%\\r100%')")
    until_ended(jobs, run)
    text, at = "", 0
    while True:
        part = jobs.log(run, at)
        assert part.start == at
        assert len(part.text.encode()) <= MOST_TEXT
        text, at = text + part.text, part.next
        if not part.more:
            break
    assert text == "é" * 100000 + "\n100%\n"
    assert jobs.log(run, at).text == ""
    assert jobs.log(run, 10**12).text == jobs.log(run, -5).text == jobs.log(run).text == "100%\n"


def test_a_growing_table_is_read_row_by_row_and_anew_when_it_is_another(jobs: JobManager) -> None:
    table = a_run(jobs) / "metrics.csv"
    assert jobs.series("a").rows == []
    table.write_text("phase,step,loss\ncpt,1,.5\ncpt,2,")
    first = jobs.series("a")
    assert (first.rows, first.anew) == ([{"phase": "cpt", "step": 1, "loss": 0.5}], True)
    with table.open("a") as file:
        file.write("\ncpt,3,nan\nhalf")
    second = jobs.series("a", first.next)
    assert [row["step"] for row in second.rows] == [2, 3]
    assert not second.anew
    assert jobs.series("a", second.next).rows == []
    wider = table.with_name("new")
    wider.write_text("phase,step,loss,bits\ncpt,1,.5,8\n")
    wider.replace(table)
    third = jobs.series("a", second.next)
    assert (third.anew, third.rows) == (True, [{"phase": "cpt", "step": 1, "loss": 0.5, "bits": 8}])
    for since in ("x", "1:2", f"{third.next}9", "-1:-1", "9" * 100):
        assert jobs.series("a", since).anew


def test_files_are_reached_by_a_name_out_of_the_list_alone(jobs: JobManager, tmp_path: Path) -> None:
    folder = a_run(jobs, results_json="{}", report_html="<p>", job_json="{}", secret_env="x")
    (folder / "plots").mkdir()
    (folder / "plots" / "loss.png").write_bytes(b"1234")
    secret = tmp_path / "secret.png"
    secret.write_text("")
    (folder / "plots" / "out.png").symlink_to(secret)
    (folder / "leak.json").symlink_to("/etc/passwd")
    (folder / "checkpoints").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.json")
    names = [each.name for each in jobs.files("a")]
    assert names == ["report.html", "results.json", "config.yaml", "plots/loss.png"]
    assert jobs.path("a", "plots/loss.png").read_bytes() == b"1234"
    for name in (
        "../a/config.yaml",
        "/etc/passwd",
        "plots/out.png",
        "leak.json",
        "plots/../config.yaml",
        "",
        "job.json",
    ):
        with pytest.raises(BitdialError, match="expected a file that a offers"):
            jobs.path("a", name)
