"""What is found of a finished run, whatever wrote it, and how settings and metrics become flat."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUNNING = "running or crashed"
"""The state of a run that nothing says the end of."""


@dataclass
class FoundRun:
    """One run: what it was set to, and what came out."""

    name: str
    """Unique in an analysis: the path below the folder, with ``#3`` or ``:arm-seed0`` where a file holds several."""
    source: str
    """``bitdial``, ``wandb``, ``tensorboard``, ``csv``, ``json``, ``trackio`` or ``optuna``."""
    path: Path
    """File or folder that it was read from."""
    state: str
    """``finished``, ``running or crashed``, ``failed`` or ``pruned``."""
    config: dict[str, Any]
    """Settings, nested names joined by dots: numbers, text, booleans and None; lists as compact JSON."""
    metrics: dict[str, float]
    """The last value of each metric, NaN and infinity as they are."""
    steps: int | None
    """The last step, or how many rows were logged where steps have no number."""
    notes: list[str]
    """What is missing or damaged, in words."""
    group: str | None = None
    """The study, project or run that it belongs to."""
    larger_is_better: dict[str, bool] = field(default_factory=dict)
    """Of each metric that a study names, whether it maximises it."""


@dataclass
class Unread:
    """A file that looks like a run and could not be read."""

    path: Path
    reason: str
    """One sentence."""


class UnreadableError(Exception):
    """A reader's word that a file holds nothing that it can read; the text is the reason."""


@dataclass
class Metrics:
    """The last value of each metric, and where one was first not finite."""

    last: dict[str, float] = field(default_factory=dict)
    odd: dict[str, tuple[float, Any]] = field(default_factory=dict)
    """Name -> the first value that was not finite, and its step."""

    def add(self, name: str, value: float, step: Any) -> None:
        """Note a value that was logged."""
        self.last[name] = value
        if not math.isfinite(value):
            self.odd.setdefault(name, (value, step))

    def notes(self) -> list[str]:
        """Where metrics were first not finite; that there are none."""
        told = [f"{name} was first not finite ({value}) at step {step}" for name, (value, step) in self.odd.items()]
        known = self.odd.keys()
        told += [f"{name} is {v}" for name, v in self.last.items() if not math.isfinite(v) and name not in known]
        return told if self.last else [*told, "no metric was logged"]


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings under names joined by dots; lists and empty mappings are leaves."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def settings(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """A configuration, flat: plain values as they are, the rest as compact JSON or text."""
    return {name: _plain(value) for name, value in flatten(tree)}


def numbers(tree: Mapping[Any, Any]) -> dict[str, float]:
    """The numbers of a record, flat; whatever else it holds is left out."""
    pairs = ((name, number(value)) for name, value in flatten(tree))
    return {name: value for name, value in pairs if value is not None}


def number(value: Any) -> float | None:
    """A number as float, None for anything else; writers without NaN in their JSON put the word there."""
    if isinstance(value, str):
        return _WORDS.get(value)
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def number_in(text: str) -> int | float | None:
    """The number that a text is, None if it is none."""
    try:
        value = float("" if "_" in text else text)  # Python takes 1_000 for a number, tables do not
    except ValueError:
        return None
    return int(text) if text.lstrip("+-").isdecimal() and len(text) < 19 else value


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A name for sorting: run 10 after run 9."""
    parts = re.split(r"([0-9]+)", name)
    return [(False, int(part[:18]), "") if part.isdecimal() else (True, 0, part) for part in parts if part]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | Mapping):
        return json.dumps(value, separators=(",", ":"), default=str)
    return str(value)  # a date out of a YAML file


_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
