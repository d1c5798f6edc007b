"""The examples of the pages on ternary quantizers and packed files run and print what the pages say."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "examples"), [("ternary_quantizers.md", 15), ("packed_format.md", 25)])
def test_every_example_of_the_page_runs(page: str, examples: int) -> None:
    result = doctest.testfile(str(DOCS / page), module_relative=False, encoding="utf-8")
    assert result.attempted > examples
    assert result.failed == 0
