"""``--devices 2`` on a CPU: the same command line, started once per device."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.cyclic_runs import SMALL, bitdial, results_of
from tests.e2e.test_cyclic import accuracies

pytestmark = pytest.mark.slow

WORDS = ["train", "cyclic", *SMALL, "--devices", "2", "--run_dir", "run"]


def start(cwd: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bitdial", *words], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_table_one_folder_and_the_same_numbers_afterwards(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(tmp_path, *WORDS, "--strategy", strategy)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("Accuracy (%) at each width") == 1
    assert out.count("Report: run/report.html") == 1
    assert err.count("cpt (2/5)") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    monkeypatch.chdir(tmp_path)
    assert bitdial("evaluate", "run", "--arm", "cpt", "--bits", "2", "4", "8") == 0  # in one process
    printed = accuracies(capsys.readouterr().out)
    cyclic = next(arm for arm in results_of(Path("run"))["arms"] if arm["name"] == "cpt")
    reported = {f"{s['bits']:g}": round(100 * s["accuracy"], 2) for s in cyclic["scores"] if s["bits"] < 32}
    assert printed == reported


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ctrl_c_reaches_both_and_one_of_them_tells(strategy: str, tmp_path: Path) -> None:
    words = [*WORDS[:2], "--model", "tiny_cnn", "--steps", "4000", "--log_interval", "1", *WORDS[-4:]]
    words += ["--strategy", strategy]
    process = start(tmp_path, *words)
    log = tmp_path / "run" / "metrics.csv"
    try:
        limit = time.monotonic() + 200
        while not log.exists() or log.read_text().count("\n") < 5:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert err.count("bitdial: baseline_fp32 (1/8): stopped by") == 1
    assert "Traceback" not in err
    assert err.splitlines()[-1].endswith("to go on: `bitdial train cyclic --resume run`")
    assert out == ""


@pytest.mark.parametrize("words", [["--batch_size", "7"], ["--dataset", "digitz"], ["--run_dir", "/proc/x"]])
def test_what_is_refused_is_said_once(words: list[str], tmp_path: Path) -> None:
    process = start(tmp_path, "train", "cyclic", *SMALL, "--devices", "2", *words)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 2
    assert out == ""
    assert err.count("bitdial: ") == 1, err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
