"""The examples of the page on precision policies run and print what the page says."""

from __future__ import annotations

import doctest
import importlib.util
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "precision_policies.md"
FLOAT8 = "## float8 layers\n"


def test_every_example_of_the_page_runs() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(FLOAT8) == 1
    complete = importlib.util.find_spec("torchao") is not None  # without it, all up to the section that needs it
    shown = text if complete else text.partition(FLOAT8)[0]
    test = doctest.DocTestParser().get_doctest(shown, {}, PAGE.name, str(PAGE), 0)
    result = doctest.DocTestRunner().run(test)
    assert result.attempted > (30 if complete else 25)
    assert result.failed == 0
