"""Finished runs of every kind, read into records."""

from __future__ import annotations

from pathlib import Path

from bitdial.search.readers.found import FoundRun as FoundRun
from bitdial.search.readers.found import Unread as Unread


def read_runs(folder: Path) -> tuple[list[FoundRun], list[Unread]]:
    """Read every run below a folder."""
    return [], []
