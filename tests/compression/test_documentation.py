"""The examples of docs/codec_models.md run, and its counts are right."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from bitdial.compression import models

PAGE = (Path(__file__).parents[2] / "docs/codec_models.md").read_text(encoding="utf-8")


def test_examples_run() -> None:
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)), {})


def test_parameter_counts() -> None:
    rows = re.findall(r"^\| `(\w+\(.*?\))`.* \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 7
    for call, written in rows:
        with torch.device("meta"):
            model = eval(call, vars(models))
        assert f"{sum(each.numel() for each in model.parameters()):,}" == written, call
