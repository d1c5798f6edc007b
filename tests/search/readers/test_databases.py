from __future__ import annotations

import json
import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bitdial.search.readers.found import FoundRun, UnreadableError
from bitdial.search.readers.sqlite_files import read_sqlite
from bitdial.search.readers.trials import joined, read_journal

READERS = {"sqlite": read_sqlite, "journal": read_journal}


@pytest.mark.parametrize("kind", READERS)
def test_studies_say_what_optuna_says(kind: str, studies: dict[str, Path]) -> None:
    optuna = pytest.importorskip("optuna")
    path = studies[kind]
    before = sorted(path.parent.iterdir())
    runs = {run.name: run for run in READERS[kind](path, "x")}
    assert sorted(path.parent.iterdir()) == before  # nothing is left beside it
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    storage = f"sqlite:///{path}" if kind == "sqlite" else optuna.storages.JournalStorage(backend)
    said = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running or crashed"}
    for study in ("one", "two"):
        for trial in optuna.load_study(study_name=study, storage=storage).trials:
            run = runs.pop(f"x:{study}#{trial.number}", None)
            if trial.state.name == "WAITING":
                assert run is None
                continue
            assert run is not None
            assert (run.state, run.group, run.source) == (said[trial.state.name], study, "optuna")
            assert run.config == pytest.approx(trial.params)
            assert run.steps == max(trial.intermediate_values, default=None)
            names = ["value"] if study == "one" else ["bpp", "psnr"]
            assert [run.metrics[name] for name in names if trial.values] == pytest.approx(trial.values or [])
            assert run.metrics.get("psnr", 30.5) in (30.5, math.inf)
    assert runs == {}


@pytest.mark.parametrize("kind", READERS)
def test_reports_that_are_not_finite_are_told(kind: str, studies: dict[str, Path]) -> None:
    first, *_, last = READERS[kind](studies[kind], "x")
    assert first.metrics["reported"] == 2
    assert first.notes == ["reported was first not finite (nan) at step 1"]
    assert last.notes == ["psnr is inf"]


def test_journal_as_several_workers_leave_it(tmp_path: Path) -> None:
    entries = [
        {"op_code": 0, "study_name": "a", "directions": [1]},
        {"op_code": 0, "study_name": "a", "directions": [1]},  # the second worker was too late
        {"op_code": 0, "study_name": "gone", "directions": [1]},
        {"op_code": 4, "study_id": 0},
        {"op_code": 4, "study_id": 1},
        {"op_code": 4, "study_id": 0},
        {"op_code": 1, "study_id": 1},
        {"op_code": 6, "trial_id": 2, "state": 1, "values": [0.5]},
        {"op_code": 6, "trial_id": 2, "state": 0, "values": None},  # is finished and stays so
        {"op_code": 10, "study_id": 0},
    ]
    path = tmp_path / "x.log"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    runs = read_journal(path, "x")
    assert [(run.state, run.metrics, run.group) for run in runs] == [
        ("running or crashed", {}, "a"),
        ("finished", {"value": 0.5}, "a"),
    ]


def test_damaged_line_of_a_journal(studies: dict[str, Path], tmp_path: Path) -> None:
    lines = studies["journal"].read_text().splitlines(keepends=True)
    path = tmp_path / "x.log"
    report = next(at for at, line in enumerate(lines) if '"op_code":7' in line)
    path.write_text("".join([*lines[:report], lines[report][:20] + "\n", *lines[report + 1 :]]))
    runs = read_journal(path, "x")
    assert len(runs) == len(read_journal(studies["journal"], "x"))
    assert runs[0].notes[0] == "damaged lines of the journal are left out: 1"
    new = [at for at, line in enumerate(lines) if '"op_code":4' in line][1]  # it counts: who is whose is not known
    path.write_text("".join([*lines[:new], lines[new][:20] + "\n", *lines[new + 1 :]]))
    (run,) = read_journal(path, "x")
    assert run.notes[0] == f"line {new + 1} of the journal is damaged; what comes after is left out"


def test_half_a_line_at_the_end_of_a_journal(studies: dict[str, Path], tmp_path: Path) -> None:
    whole = read_journal(studies["journal"], "x")
    path = tmp_path / "x.log"
    path.write_text(studies["journal"].read_text() + '{"op_code":8,"trial')
    assert [run.metrics for run in read_journal(path, "x")][1:-1] == [run.metrics for run in whole][1:-1]


def test_project_of_trackio(trackio_project: Path) -> None:
    runs = read_sqlite(trackio_project, "x")
    assert [(run.name, run.config, run.group, run.steps, run.source) for run in runs] == [
        ("x#run-0", {"lr": 0.0, "model.depth": 3}, "pictures", 4, "trackio"),
        ("x#run-1", {"lr": 0.1, "model.depth": 3}, "pictures", 4, "trackio"),
    ]
    assert runs[0].metrics == {"loss": 0.2, "val.psnr": 4}
    assert runs[0].notes == ["loss was first not finite (nan) at step 3"]


def test_database_that_is_being_written_to(trackio_project: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    shutil.copy(trackio_project, path)
    with closing(sqlite3.connect(path)) as base:
        base.execute("pragma journal_mode = wal")
        base.execute("update configs set config = '{\"lr\": 7}' where run_name = 'run-1'")
        base.execute("update metrics set metrics = 'damaged' where step = 4 and run_name = 'run-1'")
        base.commit()
        run = read_sqlite(path, "x")[1]
    assert run.config == {"lr": 7}
    assert run.metrics["val.psnr"] == 3
    assert run.notes[0] == "damaged rows are left out: 1"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"SQLite format 3\0" + bytes(5000), "damaged database"), (b"x" * 5000, "damaged database")],
)
def test_what_is_no_database_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(content)
    with pytest.raises(UnreadableError, match=reason):
        read_sqlite(tmp_path / "x.db", "x")


def test_database_of_something_else_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as base:
        base.execute("create table t (a)")
    with pytest.raises(UnreadableError, match="neither a study of Optuna nor a project of trackio"):
        read_sqlite(tmp_path / "x.db", "x")


def test_trial_that_has_a_folder_is_its_run(tmp_path: Path) -> None:
    """A search of bitdial tells of a trial in the study and in the folder of its run."""
    entries: list[dict[str, Any]] = [{"op_code": 0, "study_name": "a", "directions": [1]}]

    def add(folder: str, state: int, **attributes: Any) -> None:
        number = sum(entry["op_code"] == 4 for entry in entries)
        entries.append({"op_code": 4, "study_id": 0})
        for name, value in {"folder": str(tmp_path / folder), **attributes}.items():
            entries.append({"op_code": 8, "trial_id": number, "user_attr": {name: value}})
        entries.append({"op_code": 6, "trial_id": number, "state": state, "values": [0.5] if state == 1 else None})

    add("search-a/trial-0000", 1, heartbeat=1e9)
    add("search-a/trial-0001", 3, reason="its worker died", worker_died=True)
    add("search-a/trial-0001", 2, retry_of=1, steps=7)
    add("gone/trial-0003", 1, steps=9)
    add("elsewhere/trial-0004", 3, reason="the loss is not finite")
    path = tmp_path / "journal.log"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    def own(folder: str, state: str) -> FoundRun:
        return FoundRun(folder, "bitdial", tmp_path / folder, state, {}, {"loss": 1.0}, 3, [])

    runs = joined([
        own("search-a/trial-0000", "finished"), own("search-b/trial-0000", "finished"),
        own("search-a/trial-0001", "running or crashed"), own("copied/trial-0004", "running or crashed"),
        *read_journal(path, "x"),
    ])  # fmt: skip
    assert [(run.name, run.state, run.group, run.notes) for run in runs] == [
        ("search-a/trial-0000", "finished", "a", []),
        ("search-b/trial-0000", "finished", None, []),
        ("search-a/trial-0001", "pruned", "a", ["reason: its worker died"]),
        ("copied/trial-0004", "failed", "a", ["reason: the loss is not finite"]),
        ("x#3", "finished", "a", []),
    ]
    assert runs[0].metrics == {"loss": 1.0, "value": 0.5}
    assert (runs[-1].metrics, runs[-1].steps) == ({"value": 0.5}, 9)
