"""The examples of the page on compressed pictures run and print what the page says."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "codec_format.md"


def test_every_example_of_the_page_runs() -> None:
    pytest.importorskip("constriction")
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.attempted > 15
    assert result.failed == 0
