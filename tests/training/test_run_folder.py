"""Run folders, seeds and the progress line."""

from __future__ import annotations

import io
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from bitdial.errors import BitdialError
from bitdial.training import (
    LoopConfig,
    Progress,
    RunFolder,
    preserved_random_state,
    random_state,
    restore_random_state,
    seed_everything,
)
from bitdial.training.progress import WholeRun


def test_runs_are_numbered_and_begin_with_their_configuration(tmp_path: Path) -> None:
    first = RunFolder.create("cyclic", LoopConfig(epochs=3), root=tmp_path / "runs")
    second = RunFolder.create("cyclic", {"lr": 0.1, "widths": [2, 4]}, root=tmp_path / "runs")
    assert [run.path.name for run in (first, second)] == ["cyclic-1", "cyclic-2"]
    assert yaml.safe_load(first.config.read_text())["epochs"] == 3
    assert RunFolder.open(second.path).load_config() == {"lr": 0.1, "widths": [2, 4]}
    assert sorted(p.name for p in first.path.iterdir()) == ["checkpoints", "config.yaml", "plots"]
    names = [first.metrics.name, first.results.name, first.report.name]
    assert names == ["metrics.csv", "results.json", "report.html"]


def test_many_runs_at_once_get_a_number_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        runs = list(pool.map(lambda k: RunFolder.create("job", {"k": k}, root=tmp_path), range(48)))
    assert {run.path.name for run in runs} == {f"job-{n}" for n in range(1, 49)}
    assert [run.load_config()["k"] for run in runs] == list(range(48))


def test_an_empty_folder_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert RunFolder.create("job", {}, run_dir=tmp_path / "mine").path == tmp_path / "mine"
    assert RunFolder.create("job", {}, run_dir=tmp_path / "new" / "deep").config.is_file()


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    run = RunFolder.create("job", {}, root=tmp_path)
    with pytest.raises(BitdialError, match=r"already holds files; .* --resume"):
        RunFolder.create("job", {}, run_dir=run.path)
    (tmp_path / "file").write_text("")
    for options in ({"run_dir": tmp_path / "file"}, {"run_dir": tmp_path / "file" / "x"}, {"root": tmp_path / "file"}):
        with pytest.raises(BitdialError, match="got a file in its way"):
            RunFolder.create("job", {}, **options)
    with pytest.raises(BitdialError, match=r"expected the folder of a run at .*, got nothing"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(BitdialError, match="got a file"):
        RunFolder.open(tmp_path / "file")
    (tmp_path / "other").mkdir()
    with pytest.raises(BitdialError, match="is not the folder of a run: it has no config"):
        RunFolder.open(tmp_path / "other")


def test_a_place_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)  # the tests may run as root, whom no mode bits stop
    with pytest.raises(BitdialError, match=r"cannot write a run to .*: Permission denied; choose another --run_dir"):
        RunFolder.create("job", {}, run_dir=tmp_path / "x")


def draw() -> tuple[float, float, float]:
    return random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))


def test_seeds_and_states_cover_every_generator(tmp_path: Path) -> None:
    seed_everything(5)
    draw()  # python and numpy keep the second of a pair of gaussians: state of its own
    torch.save(random_state(), tmp_path / "state.pt")
    expected = [draw() for _ in range(3)]
    seed_everything(6)
    assert draw() != expected[0]
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draw() for _ in range(3)] == expected
    seed_everything(5)
    draw()
    assert draw() == expected[0]
    seed_everything(5, rank=1)
    draw()
    assert draw() != expected[0]


def test_drawing_in_between_can_go_unnoticed() -> None:
    seed_everything(5)
    expected = [draw(), draw()]
    seed_everything(5)
    first = draw()
    with preserved_random_state():
        draw()
    assert [first, draw()] == expected


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    text = io.StringIO()
    with Progress("cyclic: cpt", 10, console=Console(file=text, width=200), plain_seconds=0.0) as progress:
        for step in range(1, 11):
            progress.update(step, loss=1.0 / step, bits=4.0, learning_rate=0.1, best_accuracy=None)
    lines = text.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[4].startswith("cyclic: cpt  step 5/10  loss 0.2  bits 4  learning rate 0.1  ")
    assert lines[4].endswith("left")
    assert lines[9] == "cyclic: cpt  step 10/10  loss 0.1  bits 4  learning rate 0.1"


def test_without_a_terminal_units_are_those_of_the_terminal() -> None:
    text = io.StringIO()
    with Progress("ternary", 9, console=Console(file=text, width=200), plain_seconds=0.0) as progress:
        progress.update(9, loss=0.25, best_accuracy=0.93312)
        progress.scoring(9, 2, 40)
    first, second = text.getvalue().splitlines()
    assert first == "ternary  step 9/9  loss 0.25  best accuracy 93.3%"
    assert second == "ternary  step 9/9  scoring 2/40"


def test_the_whole_run_is_estimated_from_its_first_part_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 60.0, 70.0, 80.0])
    monkeypatch.setattr("bitdial.training.progress.time.monotonic", lambda: next(now))
    whole = WholeRun([100, 100, 50, None])
    whole._began = next(now)
    whole.begin()  # was trained before
    whole.begin()
    assert whole.left(40, 100) is None  # where it goes on
    assert whole.left(50, 100) == 10 / 10 * (50 + 50 + 100)
    assert whole.left(100, 100) == 60 / 60 * 150
    whole.begin()
    assert whole.left(0, 50) == 70 / 60 * (50 + 50)
    assert whole.left(20, 50) == 80 / 80 * (30 + 50)


@pytest.mark.parametrize("live", [True, False])
def test_what_is_left_of_the_whole_run_is_shown(live: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=live, color_system=None)
    whole = WholeRun([5, 400_000])
    whole.begin()
    with Progress("cpt (1/2)", 5, console=console, plain_seconds=0.0, whole=whole) as progress:
        for step in range(4):
            progress.update(step)
            time.sleep(0.11)
    assert re.search(r"all \d+h\d\d" if live else r" left, \d+\.\d min of the whole run", text.getvalue())


def test_it_is_quiet_in_between_and_when_switched_off() -> None:
    text = io.StringIO()
    console = Console(file=text, width=200)
    with Progress("a", 10, console=console, plain_seconds=3600.0) as progress:
        for step in range(1, 10):
            progress.update(step, loss=1.0)
    with Progress("b", 10, console=console, enabled=False, plain_seconds=0.0) as progress:
        progress.update(10, loss=1.0)
        progress.note("a note")
    assert text.getvalue() == ""


def test_on_a_terminal_there_is_one_live_line() -> None:
    text = io.StringIO()
    console = Console(file=text, width=200, force_terminal=True)
    with Progress("cyclic: cpt", 10, console=console) as progress:
        progress.note("resumed")
        progress.update(10, loss=0.25, bits=4.0)
    assert "resumed" in text.getvalue()
    assert "loss 0.25   bits 4" in text.getvalue()
    assert "10/10" in text.getvalue()


def test_the_best_score_is_shown_at_80_columns_where_there_are_no_bits() -> None:
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True, color_system=None)
    with Progress("ternary", 1407, console=console) as progress:
        progress.update(1407, loss=1.0212, learning_rate=0.00030784, best_accuracy=1.0)
    assert "loss 1.02   lr 0.00031 best 100.0%" in text.getvalue()


@pytest.mark.parametrize(("width", "shows_best"), [(80, False), (120, True)])
def test_the_live_line_fits_and_stands_in_columns(width: int, shows_best: bool) -> None:
    lines = []
    for label, total in (("cpt (2/8, seed 0)", 400), ("ablation_layer_independent (9/9, seed 2)", 64000)):
        text = io.StringIO()
        console = Console(file=text, width=width, force_terminal=True, color_system=None)
        with Progress(label, total, console=console, label_width=28) as progress:
            progress.update(total, loss=0.012345, bits=8.0923, learning_rate=0.00030784, best_accuracy=0.93312)
        lines.append(
            [line for line in re.split(r"[\r\n]", re.sub(r"\x1b\[[^m]*?[A-Za-z]", "", text.getvalue())) if line][-1]
        )
    for line in lines:
        assert len(line.rstrip()) <= width
        assert "loss 0.0123 bits 8.09 lr 0.00031" in line
        assert ("best 93.3%" in line) == shows_best
        assert re.search(r"\d\d:\d\d *$", line), line
    assert "\u2501\u2501\u2501" in lines[0]
    assert "400/400" in lines[0]
    assert "64000/64000" in lines[1]
    assert lines[1].startswith("ablation_la")


def test_a_transient_line_leaves_nothing() -> None:
    text = io.StringIO()
    with Progress(
        "measuring", 5, console=Console(file=text, width=80, force_terminal=True), transient=True
    ) as progress:
        progress.update(3)
    assert text.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_lost_terminal_does_not_stop_the_training(terminal: bool) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    console = Console(file=Gone(), width=80, force_terminal=terminal)
    done = []

    def work() -> None:
        with Progress("x", 3, console=console, plain_seconds=0.0) as progress:
            for step in range(1, 4):
                progress.update(step, loss=1.0)
                done.append(step)

    with pytest.warns(UserWarning, match="the progress display was switched off: OSError"):
        work()
    assert done == [1, 2, 3]
