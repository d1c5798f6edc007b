"""`bitdial analyze`: from real files to a table, a page and a status; what it writes and where; bad input."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("pandas")

import bitdial.search
from bitdial.cli import main
from bitdial.search.readers import FoundRun, Unread
from tests.search.fabricate import HOSTILE, run, scatter, sweep


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs, `runs`, in the working folder: a table of eight, and a file that cannot be read."""
    rows = [f"{lr},{seed},{30 - abs(lr - 2) + seed / 10},{lr / 10}" for lr in (1, 2, 3, 4) for seed in (0, 1)]
    (tmp_path / "runs").mkdir()
    header = "config.lr,config.seed,val/psnr,val/loss"
    (tmp_path / "runs" / "sweep.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "runs" / "bad.csv").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[FoundRun]:
    """The runs that are found instead of what is there; to be filled."""
    runs: list[FoundRun] = []
    unread = [Unread(Path(f"runs/{name}.csv"), "expected numbers, got none") for name in (*"abcdefghijkl", HOSTILE[0])]
    monkeypatch.setattr("bitdial.search.analysis.read_runs", lambda folder: (runs, unread))
    return runs


def words(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_real_files_become_a_table_and_a_page(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "runs"]) == 0
    text = words(capsys)
    assert "8 runs (8 csv) in runs" in text
    assert "The highest val/psnr is 30.05 (30 to 30.1), of " in text
    assert "What mattered (PED-ANOVA): " in text
    assert "val/psnr was taken as what most runs have; another: --metric NAME." in text
    assert "Could not be read: bad.csv: " in text
    assert "Page: runs/analysis.html" in text
    assert sorted(os.listdir("runs")) == ["analysis.html", "bad.csv", "sweep.csv"]
    assert os.listdir() == ["runs"]
    assert main(["analyze", "runs", "--metric", "loss", "--report", "none"]) == 0
    assert "The lowest val/loss is 0.1" in words(capsys)


def test_the_page_goes_where_it_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "runs", "--report", "none"]) == 0
    assert sorted(os.listdir("runs")) == ["bad.csv", "sweep.csv"]
    assert main(["analyze", "runs", "--report", "pages/mine.html"]) == 0
    assert "<!doctype html>" in Path("pages/mine.html").read_text()
    assert sorted(os.listdir("runs")) == ["bad.csv", "sweep.csv"]


def test_a_folder_that_cannot_be_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK and allowed(path, mode))
    assert main(["analyze", "runs"]) == 2
    out, err = capsys.readouterr()
    assert "The highest val/psnr" in out  # what was found is told first
    assert "got runs, which cannot; name another file with --report FILE.html, or none with --report none" in err


def test_options_reach_the_analysis(place: Path, found: list[FoundRun], capsys: pytest.CaptureFixture[str]) -> None:
    def told(*flags: str) -> str:
        assert main(["analyze", "runs", "--report", "none", *flags]) == 0
        return words(capsys)

    found += sweep()
    assert "The highest psnr is 37." in told("--metric", "psnr")
    assert "The lowest psnr is 26.0" in told("--metric", "psnr", "--minimize")
    assert "The highest bpp is 1." in told("--metric", "bpp", "--no_minimize")
    one = told("--lambda", "0.013")
    assert "The highest psnr is 32." in one
    assert one.count("0.013") == 1 + 5  # the sentence, five rows
    assert told("--lambda_value", "0.013", "--top_k", "2").count("0.013") == 1 + 2
    assert "PED-ANOVA" not in told("--evaluator", "fanova")
    assert "of width 128" in told("--param", "width")
    assert "The highest psnr is 32.94" in told("--lambda", "0.013", "--lambda_name", "lambda_value")
    assert "broken: failed: CUDA out of memory" in one
    assert "and 3 more, on the page" in one


def test_names_are_printed_as_they_are(place: Path, found: list[FoundRun], capsys: pytest.CaptureFixture[str]) -> None:
    found += [run(f"[red]{i}", {"[bold]x": i, "a\nb\x1b[2J": i % 2}, {":cat:/psnr": float(i)}) for i in range(5)]
    assert main(["analyze", "runs", "--report", "none"]) == 0
    out = capsys.readouterr().out
    assert "[bold]x" in out
    assert ":cat:/psnr" in out
    assert "\x1b[2J" not in out
    assert r"a\nb\x1b[2J" in out


def test_nothing_to_read_is_status_2(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/sweep.csv").unlink()
    assert main(["analyze", "runs"]) == 2
    err = capsys.readouterr().err
    assert "bad.csv: " in err
    assert err.splitlines()[-1] == "bitdial: expected finished runs in runs, got none; name a folder that has some"
    assert os.listdir("runs") == ["bad.csv"]


def test_runs_without_metrics_are_counted(
    place: Path, found: list[FoundRun], capsys: pytest.CaptureFixture[str]
) -> None:
    found += [run("a", {"x": 1}, {}), run("b", {"x": 2}, {}, "pruned"), run("c", {"x": 2}, {}, "failed")]
    assert main(["analyze", "runs"]) == 0
    text = words(capsys)
    assert "3 runs (3 json; 1 pruned, 1 failed) in runs No run has a metric." in text
    assert "b: pruned c: failed: no reason given" in text


BAD = {
    "nothing": ([], "expected DIR after the command, got nothing; write `bitdial analyze DIR`"),
    "no folder": (["x"], "expected a folder of runs at x, got nothing; check the path"),
    "a file": (["runs/sweep.csv"], "expected a folder of runs at runs/sweep.csv, got a file"),
    "metric": (["runs", "--metric", "psnrr"], "got 'psnrr'; did you mean 'val/psnr'?"),
    "flag": (["runs", "--metrics", "psnr"], "--metrics"),
    "top_k": (["runs", "--top_k", "0"], "--top_k"),
    "lambda": (["runs", "--lambda", "0.1"], "expected runs with a lambda for lambda_value=0.1, got none"),
    "lambda in words": (["runs", "--lambda", "big"], "--lambda"),
    "param": (["runs", "--param", "depth"], "expected a parameter that the runs have, got 'depth'"),
    "evaluator": (["runs", "--evaluator", "shap"], "--evaluator"),
    "report": (
        ["runs", "--report", "page.txt"],
        "--report: expected a file that ends in .html, or none, got 'page.txt'",
    ),
    "two folders": (["runs", "other"], "other"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(place: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    flags, says = BAD[case]
    assert main(["analyze", *flags]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""
    assert err.count("\n") == 1
    assert not Path("runs/analysis.html").exists()


def test_without_the_extra(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pandas" else found(name))
    assert main(["analyze", "runs"]) == 2
    assert capsys.readouterr().err == (
        'bitdial: the analyzer needs the package pandas; run: pip install "bitdial[search]"\n'
    )


@pytest.mark.parametrize("flags", [["--help"], ["runs", "--metrik", "x"], ["runs", "--report", "x.txt"]])
def test_help_and_wrong_flags_load_nothing_heavy(flags: list[str]) -> None:
    code = (
        f"import sys; from bitdial.cli import main; main({['analyze', *flags]!r}); "
        "print('LOADED', *({'torch', 'pandas', 'optuna', 'matplotlib', 'numpy'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "LOADED"


def test_importing_the_room_loads_nothing_heavy() -> None:
    code = "import sys, bitdial.search; print(*({'torch', 'pandas', 'optuna', 'matplotlib'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    with pytest.raises(AttributeError, match="has no attribute 'Analyser'"):
        bitdial.search.Analyser  # noqa: B018


def test_many_parameters_are_told_in_few_columns(
    place: Path, found: list[FoundRun], capsys: pytest.CaptureFixture[str]
) -> None:
    found += scatter(40, columns=16)
    assert main(["analyze", "runs", "--report", "none"]) == 0
    text = words(capsys)
    assert "8 more parameters on the page" in text
    assert "one seed: no interval" in text
