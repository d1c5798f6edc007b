"""The examples of the pages on quantizers and layers run and print what the pages say."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "examples"), [("quantizers.md", 10), ("layers.md", 20)])
def test_every_example_of_the_page_runs(page: str, examples: int) -> None:
    result = doctest.testfile(str(DOCS / page), module_relative=False, encoding="utf-8")
    assert result.attempted > examples
    assert result.failed == 0
