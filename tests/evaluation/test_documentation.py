"""The examples of docs/any_precision_measuring.md run, and its pictures are there and small."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bitdial as bd

PAGE = Path(__file__).parents[2] / "docs" / "any_precision_measuring.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.ReLU()
    )
    model = bd.quantize(nn.Sequential(model, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)), skip=["<last>"])
    batches = [(torch.randn(16, 3, 8, 8), torch.randint(5, (16,))) for _ in range(6)]
    names: dict[str, Any] = {
        "torch": torch,
        "model": model,
        "dial": bd.BitDial(model),
        "training": batches[:2],
        "validation": batches[2:4],
        "held_out": batches[4:],
        "x": batches[0][0],
    }
    text = PAGE.read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    printed = capsys.readouterr().out
    assert re.findall(r"```text\n(Accuracy gains.*?)\n```", text)[0] in printed
    assert printed.startswith("Config 1/4: Acc=")
    assert (tmp_path / "bitwidth_vs_accuracy.png").exists()
    assert names["dial"].weights == list(names["found"].chosen.widths)


def test_the_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", PAGE.read_text(encoding="utf-8"))
    assert len(pictures) == 8
    assert all((PAGE.parent / name).stat().st_size < 60_000 for name in pictures)
