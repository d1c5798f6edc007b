"""The script for a GPU: whatever a case does, the others are measured, in time, and a second call goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu import driver
from benchmarks.gpu.__main__ import RESULTS, main
from benchmarks.gpu.driver import REPOSITORY, Driver
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.record import CUT, DONE, FAILED, WAITING, Record, markdown, readme
from bitdial.errors import BitdialError

FAULTY = Part("faulty", "Faults", (("It holds", "fine"),), 10, package="tests.scripts")
BROKEN = Part("broken", "Not importable", (), 10, package="tests.scripts")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "GRACE", 0.5)


def drive(folder: Path, seconds: float, *parts: Part) -> tuple[Record, list[str]]:
    """One call of the script's inner half."""
    said: list[str] = []
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    record = Record(folder / "out", "GPU of tests", toy=True, machine={"cpu": "some"})
    Driver(record, time.time() + seconds, "cpu", True, scratch, None, said.append).run(parts)
    return record, said


def ended(pid: int) -> bool:
    """Whether a process runs no more; its number may stay until whoever started it asks."""
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def states(record: Record, part: Part = FAULTY) -> dict[str, str]:
    return {case: record.entry(part, case)["state"] for case in part.module.cases(True)}


def test_every_fault_is_recorded_and_the_rest_is_measured(tmp_path: Path) -> None:
    record, said = drive(tmp_path, 60, FAULTY)
    assert states(record) == {
        "fine": DONE, "raises": FAILED, "dies": FAILED, "hangs": CUT, "exits": FAILED, "leaves a process": CUT,
        "sees that there is no time": WAITING, "fine again": DONE,
    }  # fmt: skip
    assert "ValueError: a sentence\nin two lines" in record.entry(FAULTY, "raises")["said"]
    assert "status 139" in record.entry(FAULTY, "dies")["said"]
    assert "last words" in record.entry(FAULTY, "dies")["said"]
    assert "status 5" in record.entry(FAULTY, "exits")["said"]
    assert any("raises" in line and "a sentence" not in line.splitlines()[0] for line in said)
    assert ended(int((tmp_path / "scratch" / "pid").read_text()))
    tried = (tmp_path / "scratch" / "tried").read_text().split("\n")
    assert tried.count("raises") == tried.count("fine") == 1
    assert tried.count("hangs") == 1  # it had all of its limit
    assert tried.count("sees that there is no time") == 2  # what early parts leave over may do
    page = markdown(record.content, [FAULTY])
    assert page.startswith("# Measured on GPU of tests\n")
    assert "| fine |\n| fine again |" in page
    assert "- hangs: cut off after" in page
    assert "`ValueError: a sentence in two lines with a | and <b>markup</b>`" in page


def test_a_second_call_goes_on_where_the_first_one_stopped(tmp_path: Path) -> None:
    drive(tmp_path, 60, FAULTY)
    (tmp_path / "scratch" / "tried").unlink()
    record, _ = drive(tmp_path, 60, FAULTY)
    tried = (tmp_path / "scratch" / "tried").read_text().split("\n")
    assert "fine" not in tried
    assert tried.count("raises") == 1  # what failed may have been mended since
    assert tried.index("hangs") < tried.index("raises")
    assert states(record)["fine"] == DONE


def test_time_that_is_over_leaves_the_rest_waiting(tmp_path: Path) -> None:
    began = time.time()
    record, _ = drive(tmp_path, 2, FAULTY)
    assert time.time() - began < 10
    assert set(states(record).values()) == {WAITING}


def test_a_part_that_cannot_be_imported_does_not_stop_the_next_one(tmp_path: Path) -> None:
    record, _ = drive(tmp_path, 60, BROKEN, FAULTY)
    assert states(record, BROKEN) == {"one": FAILED, "two": FAILED}
    assert "a package that is missing here" in record.entry(BROKEN, "one")["said"]
    assert states(record)["fine"] == DONE


def test_a_later_failure_takes_no_result_away(tmp_path: Path) -> None:
    record = Record(tmp_path, "some GPU", toy=True, machine={})
    record.put(FAULTY, "fine", {"state": DONE, "rows": [{"case": "fine"}], "seconds": 1, "day": "2026-01-01"})
    record.put(FAULTY, "fine", {"state": FAILED, "said": "", "seconds": 1, "day": "2026-01-02"})
    assert record.entry(FAULTY, "fine")["state"] == DONE


def test_each_device_has_files_of_its_own(tmp_path: Path) -> None:
    names = [
        Record(tmp_path, device, toy=toy, machine={}).path.name
        for device, toy in (("NVIDIA H100 80GB HBM3", False), ("../NVIDIA/H200 <b>", False), ("CPU", True))
    ]
    assert names == ["nvidia-h100-80gb-hbm3.json", "nvidia-h200-b.json", "toy-cpu.json"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"benchmark": "gpu"}', '{"benchmark": "no", "parts": {}}', "\x00"])
def test_results_that_cannot_be_read_are_not_written_over(content: str, tmp_path: Path) -> None:
    path = tmp_path / "some-gpu.json"
    path.write_text(content)
    with pytest.raises(BitdialError, match=r"must hold results of this benchmark, got: .*; move it away"):
        Record(tmp_path, "some GPU", toy=False, machine={})
    assert path.read_text() == content


def test_the_readme_tells_what_waits(tmp_path: Path) -> None:
    record = Record(tmp_path, "Some GPU", toy=False, machine={})
    waiting = readme(tmp_path)
    for part in PARTS:
        names = list(part.module.cases(toy=False))
        for claim, beginning in part.claims:
            assert f"| {claim} | waits |" in waiting
            assert any(name.startswith(beginning) for name in names), f"no case shows: {claim}"
    part = next(part for part in PARTS if part.name == "ternary")
    record.put(part, "one epoch", {"state": CUT, "said": "", "seconds": 1, "day": "2026-01-01"})
    assert "| [Some GPU](some-gpu.md): 1 cut off of 1 |" in (tmp_path / "README.md").read_text()


def test_the_readme_in_the_repository_is_that_of_its_results() -> None:
    assert (RESULTS / "README.md").read_text() == readme(RESULTS)


def test_every_limit_fits_into_the_time_of_its_part_or_a_second_call() -> None:
    assert sum(part.seconds for part in PARTS) <= 480
    for part in PARTS:
        for case, limit in part.module.cases(toy=False).items():
            assert 0 < limit <= 240, f"{part.name}: {case}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--minutes", "0"], "--minutes must be a number above 0, got 0"),
        (["--minutes", "nan"], "--minutes must be a number above 0, got nan"),
        (["--minutes", "inf"], "--minutes must be a number above 0, got inf"),
        (["--minutes", "eight"], "argument --minutes: invalid float value: 'eight'"),
        (["--only", "taxes"], "invalid choice: 'taxes'"),
        (["--again", ""], "invalid choice: ''"),
        (["--data", "/nowhere"], "--data must be a folder, got /nowhere"),
        (["--out"], "argument --out: expected one argument"),
        (["--toys"], "unrecognized arguments: --toys"),
        (["tax"], "unrecognized arguments: tax"),
    ],
)
def test_bad_flags_get_a_sentence(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--out", "--scratch"])
def test_a_file_where_a_folder_is_needed(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    others = {"--out": str(tmp_path / "out"), "--scratch": str(tmp_path / "scratch"), flag: str(tmp_path / "file")}
    words = [word for pair in others.items() for word in pair]
    assert main(["--toy", "--minutes", ".01", "--only", "formats", *words]) == 2
    assert "must be folders to write to" in capsys.readouterr().err


def test_a_stop_from_outside_leaves_no_process_and_what_was_measured(tmp_path: Path) -> None:
    words = ["--toy", "--only", "formats", "--out", str(tmp_path / "out"), "--scratch", str(tmp_path / "scratch")]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu", *words], cwd=REPOSITORY)
    result = tmp_path / "out" / "toy-cpu.json"
    while not result.exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (143, 0)
    assert json.loads(result.read_text())["parts"]["formats"]
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "scratch") not in running
