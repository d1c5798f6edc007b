"""The examples of the pages on image compression run and print what the pages say, and their counts are right."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch

from bitdial.compression import models

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "least"), [("balanced.md", 10), ("codec_format.md", 15)])
def test_the_examples_print_what_the_page_says(page: str, least: int) -> None:
    pytest.importorskip("constriction")
    result = doctest.testfile(str(DOCS / page), module_relative=False, encoding="utf-8")
    assert result.attempted > least
    assert result.failed == 0


def test_the_examples_of_the_models_run() -> None:
    page = (DOCS / "codec_models.md").read_text(encoding="utf-8")
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), {})


def test_parameter_counts() -> None:
    page = (DOCS / "codec_models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+\(.*?\))`.* \| ([\d,]+) \|$", page, re.MULTILINE)
    assert len(rows) == 7
    for call, written in rows:
        with torch.device("meta"):
            model = eval(call, {name: getattr(models, name) for name in models.__all__})
        assert f"{sum(each.numel() for each in model.parameters()):,}" == written, call
