"""The log holds whole rows only, whatever happens to the machine."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from bitdial.errors import BitdialError
from bitdial.training import CsvLog, MetricsLog


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "metrics.csv")
    log.append({"step": 1, "loss": 0.1, "note": 'a "b", c\nd'})
    log.append({"step": 2, "loss": math.nan})
    assert (tmp_path / "metrics.csv").read_text() == 'step,loss,note\n1,0.1,"a ""b"", c d"\n2,nan,\n'


def test_floats_come_back_exactly(tmp_path: Path) -> None:
    value = 0.1 + 0.2
    log = CsvLog(tmp_path / "metrics.csv")
    log.append({"x": value})
    assert float(log.rows()[0]["x"]) == value


def test_a_new_column_widens_the_file(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "metrics.csv")
    log.append({"step": 1})
    log.append({"step": 2, "accuracy": 0.5})
    log.append({"step": 3})
    assert (tmp_path / "metrics.csv").read_text() == "step,accuracy\n1,\n2,0.5\n3,\n"
    assert os.listdir(tmp_path) == ["metrics.csv"]


@pytest.mark.parametrize("half", ["3", "3,0.", "3,0.5", "\0\0\0"])
def test_half_a_row_is_cut_off(half: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,2.0\n" + half)
    log = CsvLog(path)
    log.append({"step": 2, "loss": 1.5})
    assert path.read_text() == "step,loss\n1,2.0\n2,1.5\n"


def test_a_file_with_half_a_header_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,lo")
    log = CsvLog(tmp_path / "metrics.csv")
    log.append({"step": 1, "loss": 1.0})
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n1,1.0\n"


def test_damaged_rows_are_reported(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2.0\n2\n3,1.0\n")
    with pytest.warns(UserWarning, match="1 damaged rows"):
        assert [row["step"] for row in CsvLog(tmp_path / "metrics.csv").rows()] == ["1", "3"]


def test_a_full_disk_leaves_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.csv"
    log = CsvLog(path)
    log.append({"step": 1, "loss": 1.0})
    log.append({"step": 2, "loss": 1.0})
    whole, write = path.read_text(), os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
    with pytest.raises(BitdialError, match=r"cannot write .*metrics.csv"):
        log.append({"step": 3, "loss": 1.0})
    assert path.read_text() == whole


def test_killed_at_random_there_are_only_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    script = (
        "import sys, importlib.util as u\n"
        "from bitdial.training.metrics_log import CsvLog\n"
        f"log = CsvLog({str(path)!r}); n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    log.append({'step': n, 'loss': 1 / n, **{f'c{k}': k for k in range(n // 200)}})\n"
    )
    for wait in (0.05, 0.13):
        path.unlink(missing_ok=True)
        child = subprocess.Popen([sys.executable, "-c", script])
        while not path.exists():
            time.sleep(0.01)
        time.sleep(wait)
        child.kill()
        child.wait()
        text = path.read_text()
        assert text.endswith("\n")
        rows = list(csv.reader(text.splitlines()))
        assert {len(row) for row in rows[1:]} == {len(rows[0])}
        assert [int(row[0]) for row in rows[1:]] == list(range(1, len(rows)))


def test_phases_share_the_file_and_rewind_alone(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, scope={"phase": "cpt", "seed": 0}, tensorboard=False) as log:
        for step in (10, 20):
            log.write({"step": step, "loss": 1.0})
    with MetricsLog(tmp_path, scope={"phase": "static", "seed": 0}, tensorboard=False) as log:
        log.rewind(0, 0)
        for step in (10, 20, 30):
            log.write({"step": step, "loss": 2.0})
    with MetricsLog(tmp_path, scope={"phase": "static", "seed": 0}, tensorboard=False) as log:
        log.rewind(1, 10)
        log.write({"step": 20, "loss": 3.0})
    expected = "phase,seed,step,loss\ncpt,0,10,1.0\ncpt,0,20,1.0\nstatic,0,10,2.0\nstatic,0,20,3.0\n"
    assert (tmp_path / "metrics.csv").read_text() == expected


def test_tensorboard_forgets_what_a_resumed_run_repeats(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.write({"step": step, "train_loss": float(step), "note": "text is for the CSV"})
    time.sleep(1.1)  # event files are ordered by the second in their names
    with MetricsLog(tmp_path) as log:
        log.rewind(1, 1)
        log.write({"step": 2, "train_loss": 20.0})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 20.0)]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1:] == [
        "1,1.0,text is for the CSV",
        "2,20.0,",
    ]


@pytest.mark.parametrize("scope", [{}, {"arm": "static", "seed": 1}])
@pytest.mark.parametrize(("rows", "step"), [(0, 0), (0, 5), (10, 5)])
def test_points_of_a_run_that_was_killed_before_its_first_checkpoint_are_forgotten(
    rows: int, step: int, scope: dict[str, str | int], tmp_path: Path
) -> None:
    """It starts again: at its beginning, or from the checkpoint, of another log, that it began with."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    copy = tmp_path / "copy.csv"
    for value in (1.0, 2.0):
        with MetricsLog(tmp_path, scope=scope, copy=copy) as log:
            log.rewind(rows, step)
            for number in range(step + 1, step + 4):
                log.write({"step": number, "train_loss": value})
        time.sleep(1.1)  # event files are ordered by the second in their names
    events = EventAccumulator(str(tmp_path / "tensorboard" / "static-1" if scope else tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(step + i, 2.0) for i in (1, 2, 3)]
    for file in (tmp_path / "metrics.csv", copy):
        assert [row["train_loss"] for row in csv.DictReader(file.read_text().splitlines())] == ["2.0"] * 3


def test_numbers_of_layers_have_a_file_of_their_own_that_goes_back_with_the_log(tmp_path: Path) -> None:
    def logged(scope: dict[str, str | int], rows: int, steps: Sequence[int], value: float) -> None:
        with MetricsLog(tmp_path, scope=scope, tensorboard=False) as log:
            log.rewind(rows, rows)
            for step in steps:
                log.write({"step": step, "epoch": 0, "val_loss": 1.0}, {"zeros/a.b": value} if step % 2 == 0 else None)

    logged({"seed": 1}, 0, range(1, 7), 0.5)
    logged({"seed": 2}, 0, range(1, 3), 0.25)
    logged({"seed": 1}, 4, range(5, 7), 0.75)
    header, *rows = (tmp_path / "layers.csv").read_text().splitlines()
    assert header == "seed,step,epoch,zeros/a.b"
    assert rows == ["1,2,0,0.5", "1,4,0,0.5", "2,2,0,0.25", "1,6,0,0.75"]
    assert (tmp_path / "metrics.csv").read_text().startswith("seed,step,epoch,val_loss\n")


def test_no_file_is_touched_before_the_first_row(tmp_path: Path) -> None:
    MetricsLog(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_event_files_of_phases_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    for phase in ("cpt", "static"):
        with MetricsLog(tmp_path, scope={"phase": phase, "seed": 3}) as log:
            log.write({"step": 1, "train_loss": 1.0})
    with MetricsLog(tmp_path) as log:
        log.write({"step": 1, "train_loss": 1.0})
    found = sorted(str(path.relative_to(tmp_path).parent) for path in tmp_path.rglob("events.out.tfevents.*"))
    assert found == [".", "tensorboard/cpt-3", "tensorboard/static-3"]


def test_a_run_of_wandb_that_the_process_has_begun_gets_every_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, float]] = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=SimpleNamespace(log=rows.append)))
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write({"step": 3, "train_loss": 0.5, "gamma": 0.1, "format": "bfloat16", "val_loss": None})
    with MetricsLog(tmp_path, scope={"arm": "cpt", "seed": 1}, tensorboard=False) as log:
        log.write({"step": 1, "val_loss": 2})
    assert rows == [{"train/loss": 0.5, "gamma": 0.1, "step": 3}, {"cpt-1/val/loss": 2.0, "cpt-1/step": 1}]
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None))  # imported, but no run begun
    with MetricsLog(tmp_path / "other", tensorboard=False) as log:
        log.write({"step": 1, "val_loss": 2})
    assert len(rows) == 2


def test_logs_of_one_second_are_read_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    """TensorBoard takes event files by name: the tenth of a process would come before its ninth."""
    for part in range(3):
        with MetricsLog(tmp_path) as log:
            log.rewind(part, 10 * part)
            log.write({"step": 10 * part, "loss": 1.0})
    seconds = [int(path.name.split(".")[3]) for path in tmp_path.glob("events.out.tfevents.*")]
    assert len(set(seconds)) == 3
