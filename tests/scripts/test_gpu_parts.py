"""Every part of the script for a GPU runs here, at toy size, on a CPU (or on the GPU, where there is one)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.parts import PARTS, Part

LONG = ("ternary", "augmentation", "tax", "sharding", "formats", "saving", "packed")
"""Parts that take more than a few seconds at toy size too."""


@pytest.mark.parametrize(
    "part",
    [pytest.param(part, id=part.name, marks=pytest.mark.slow if part.name in LONG else ()) for part in PARTS],
)
def test_at_toy_size(part: Part, tmp_path: Path) -> None:
    words = ["--only", part.name, "--out", str(tmp_path), "--scratch", str(tmp_path / "scratch"), "--minutes", "5"]
    assert main(["--toy", *words]) == 0
    file = next(tmp_path.glob("toy-*.json"))
    known = json.loads(file.read_text())["parts"][part.name]
    assert {case: entry["state"] for case, entry in known.items()} == dict.fromkeys(part.module.cases(True), "done")
    page = file.with_suffix(".md").read_text()
    for row in part.module.table([row for entry in known.values() for row in entry["rows"]]):
        assert row in page
    assert not (tmp_path / "README.md").exists()  # toy figures are nobody's result


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_sentence_names_the_way_to_try(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "out"), "--scratch", str(tmp_path / "scratch")]) == 2
    assert "this needs a GPU, and torch finds none here; --toy tries the script on a CPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
