"""The commands of the page on compressing pictures run as the page writes them, from top to bottom."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.commands.conftest import make_run
from tests.commands.pictures import bitdial, files, write

PAGE = Path(__file__).parents[2] / "docs" / "compress.md"


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("constriction")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bitdial.commands.picture_run.usable_cores", lambda: 1)
    make_run(Path("runs/compress-1"), 1, "2026-01-01")
    make_run(Path("runs/compress-2"), 2, "2026-01-02", "hpcm_tiny")
    for name in ("photo.jpg", "holiday/a.jpg", "holiday/day 2/b.png"):
        write(name)
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 10
    for line in lines:
        name, *words = shlex.split(line, comments=True)
        assert name == "bitdial"
        assert bitdial(capsys, *words).status == 0, line
    assert sorted(files("back")) == ["a.png", "day 2/b.png"]
    assert sorted(files("some")) == ["a.bd", "photo.bd"]
    assert len({Path(name).read_bytes() for name in ("photo.png", "rough.png", "better.png", "other.png")}) == 4
    assert list(files("measured")) == ["rate_distortion.png"]
