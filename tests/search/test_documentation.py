"""The examples of docs/analyze.md run as the page writes them, and its pictures are there and small."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("pandas")

from bitdial.cli import main
from tests.search.fabricate import sweep

PAGE = Path(__file__).parents[2] / "docs" / "analyze.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a table of runs in `runs`."""
    rows = [
        [*(run.config[name] for name in ("optimizer.lr", "width", "lambda_value", "seed")), *run.metrics.values()]
        for run in sweep((0.0067, 0.013))
        if run.metrics
    ]
    header = "config.lr,config.width,config.lambda_value,config.seed,psnr,bpp,val/loss"
    (tmp_path / "runs").mkdir()
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "runs" / "table.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitdial.search.analysis_page._figures", lambda *_: [])  # a second a page
    lines = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 4
    for line in lines:
        name, *words = shlex.split(line, comments=True)
        assert name == "bitdial"
        assert main(words) == 0, line
    assert Path("runs/analysis.html").exists()
    assert Path("mine.html").exists()


def test_the_examples(place: Path) -> None:
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(code, names)
    written = sorted(path.name for path in place.iterdir() if path.is_file())
    pictures = ["comparison.png", "front.png", "heat_map.png", "importance.png", "parallel.png"]
    assert written == sorted(["analysis.html", *pictures])


def test_the_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", TEXT)
    assert len(pictures) == 5
    assert all((PAGE.parent / name).stat().st_size < 110_000 for name in pictures)
