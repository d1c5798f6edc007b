"""What the doctor found, and how it is shown: a table for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

MARKS = {True: ("yes", "green"), False: ("no", "yellow"), None: ("", "")}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    """The group that it belongs to: machine, torch, arithmetic..."""

    name: str

    value: str
    """What was found, in words or figures."""

    works: bool | None = None
    """The outcome of a trial; ``None`` where there was nothing to try."""


def as_json(findings: Iterable[Finding]) -> dict[str, dict[str, dict[str, str | bool | None]]]:
    """Nest findings as ``{topic: {name: {"value": ..., "works": ...}}}``."""
    nested: dict[str, dict[str, dict[str, str | bool | None]]] = {}
    for finding in findings:
        nested.setdefault(finding.topic, {})[finding.name] = {"value": finding.value, "works": finding.works}
    return nested


def print_table(findings: Iterable[Finding], console: Console) -> None:
    """Print findings as one table, a section for each topic."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for _ in range(2):
        table.add_column(overflow="fold", no_wrap=False)
    table.add_column(min_width=3)
    table.add_column(overflow="fold", ratio=1)
    topic = None
    for finding in findings:
        if topic is not None and topic != finding.topic:
            table.add_row()
        shown = "" if finding.topic == topic else finding.topic
        topic = finding.topic
        table.add_row(Text(shown, "bold"), Text(finding.name), Text(*MARKS[finding.works]), Text(finding.value))
    console.print(table)
