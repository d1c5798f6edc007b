"""A run that was stopped, or killed, and resumed is the run that never stopped, bit for bit."""

from __future__ import annotations

import csv
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.cyclic_runs import bitdial, final_weights, results_of, start, without_time
from tests.training.running import differences

WORDS = [
    *("train", "cyclic", "aggressive", "--model", "tiny_cnn", "--steps", "260", "--num_static_iterations", "8"),
    *("--log_interval", "5", "--static.test_configurations", "{4bit: 4}", "--static.compare_to_baseline", "false"),
    *("--cyclic.gradient_bits", "8", "--model_options.bit_widths", "4", "8", "--batch_size", "16"),
]
"""Stochastic rounding of gradients included, so that the random state matters."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stopped."""
    place = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert bitdial(*WORDS) == 0
    return place / "runs" / "cyclic-1"


def steps_logged(run: Path, phase: str) -> int:
    if not (run / "metrics.csv").exists():
        return 0
    with (run / "metrics.csv").open() as file:
        return max((int(row["step"]) for row in csv.DictReader(file) if row["phase"] == phase), default=0)


def stop(cwd: Path, number: signal.Signals, phase: str, step: int) -> tuple[int, str]:
    """Start the command, send a signal once a step of a phase is logged; return its status and its last line."""
    process = start(cwd, WORDS)
    run = cwd / "runs" / "cyclic-1"
    try:
        limit = time.monotonic() + 240
        while steps_logged(run, phase) < step:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit, "the run never got there"
            time.sleep(0.005)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, err


def assert_same(run: Path, whole: Path, command: str | None = None) -> None:
    for log in ("metrics.csv", "layers.csv"):
        assert (run / log).read_text() == (whole / log).read_text()
    assert differences(final_weights(run), final_weights(whole)) == []
    mine, theirs = without_time(results_of(run)), without_time(results_of(whole))
    assert mine.pop("command") == (command or theirs["command"])
    theirs.pop("command")
    assert mine == theirs
    assert (run / "report.html").exists()
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}


def test_ctrl_c_then_the_same_command_with_resume(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, err = stop(tmp_path, signal.SIGINT, "cpt", 20)
    assert status == 130, err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("bitdial: cpt (1/3): stopped by SIGINT after step ")
    assert "of 260" in last
    assert last.endswith("to go on: `bitdial train cyclic --resume runs/cyclic-1`")
    run = tmp_path / "runs" / "cyclic-1"
    assert not (run / "results.json").exists()

    monkeypatch.chdir(tmp_path)
    assert bitdial("evaluate", "runs/cyclic-1") == 2  # nothing to evaluate yet, said in a sentence
    assert "no trained arm yet" in capsys.readouterr().err
    assert bitdial(*WORDS, "--resume") == 0
    capsys.readouterr()
    assert_same(run, whole)

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert bitdial(*WORDS, "--resume") == 0  # a finished run: the table again, and nothing else
    again = capsys.readouterr()
    assert "matched_cost" in again.out
    assert again.err == ""
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(("phase", "step"), [("cpt", 210), pytest.param("matched_cost", 10, marks=pytest.mark.slow)])
def test_kill_then_resume(phase: str, step: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after its checkpoint at step 200, and in an arm that has no checkpoint yet."""
    status, _ = stop(tmp_path, signal.SIGKILL, phase, step)
    assert status == -signal.SIGKILL
    monkeypatch.chdir(tmp_path)
    assert bitdial("train", "cyclic", "--resume", "runs/cyclic-1") == 0
    command = "bitdial train cyclic --config runs/cyclic-1/config.yaml"  # makes it again, whatever the words were
    assert_same(tmp_path / "runs" / "cyclic-1", whole, command)


class TestChangedOptions:
    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--lr", ".05"], "lr must stay 0.1 when runs/cyclic-1 is resumed, got 0.05"),
            (["--steps", "300"], "steps must stay 260"),
            (["--epochs", "3"], "must stay"),
            (["--cyclic.cycle_length", "12"], "cyclic.cycle_length must stay 10"),
            (["conservative"], "cyclic."),
            (["--preset", "conservative"], "cyclic."),
            (["--static.test_configurations", "{2bit: 2}"], "static.test_configurations must stay"),
            (["--model", "mlp"], "model must stay tiny_cnn"),
            (["--seed", "1"], "seed must stay 0"),
        ],
    )
    def test_refused_in_one_sentence(
        self,
        words: list[str],
        says: str,
        whole: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(whole.parents[1])
        assert bitdial("train", "cyclic", *words, "--resume") == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert says in err

    def test_the_preset_it_was_made_with_is_no_change(
        self, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(whole.parents[1])
        assert bitdial("train", "cyclic", "aggressive", "--resume") == 0
        assert bitdial("train", "cyclic", "--preset", "aggressive", "--resume", "runs/cyclic-1") == 0
        assert "matched_cost" in capsys.readouterr().out


def test_one_more_seed_by_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        *(
            "--model",
            "mlp",
            "--steps",
            "6",
            "--num_static_iterations",
            "2",
            "--static.test_configurations",
            "{4bit: 4}",
        ),
        *("--static.compare_to_baseline", "false", "--cyclic.cycle_length", "5", "--run_dir", str(tmp_path / "mine")),
    ]
    assert bitdial("train", "cyclic", *words) == 0
    first = results_of(tmp_path / "mine")["arms"]
    assert bitdial("train", "cyclic", *words, "--seeds", "2", "--resume") == 0  # --run_dir says which run
    both = results_of(tmp_path / "mine")
    assert both["arms"][: len(first)] == first
    assert {arm["seed"] for arm in both["arms"]} == {0, 1}
    assert "--seeds 2" in both["command"]
    monkeypatch.chdir(tmp_path)
    assert bitdial("train", "cyclic", "--resume", "mine") == 0  # the file of the run knows of the second seed
    assert results_of(tmp_path / "mine") == both
    assert bitdial("train", "cyclic", "--resume", "mine", "--seeds", "1") == 2


def test_ctrl_c_before_anything_was_made_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, WORDS)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:  # pragma: no cover
        process.kill()
        raise
    assert process.returncode in (130, -signal.SIGINT)
    assert list(tmp_path.iterdir()) == []
    assert err.count("Traceback") == 0 or process.returncode == -signal.SIGINT
