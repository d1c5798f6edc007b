"""A part of the GPU script that lists its cases, and cannot be imported to measure them (in another process)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu.parts import Bench, Row

if Path(sys.argv[0]).name == "child.py":
    raise ImportError("a package that is missing here")


def cases(toy: bool) -> Mapping[str, float]:
    """Name -> limit."""
    return {"one": 5, "two": 5}


def measure(case: str, bench: Bench) -> list[Row]:
    """Never called."""
    raise NotImplementedError


def table(rows: Sequence[Row]) -> list[str]:
    """Nothing."""
    return []
