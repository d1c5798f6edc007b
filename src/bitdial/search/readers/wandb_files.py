"""Runs of wandb, of their record files alone: an offline run has no summary beside it, and wandb need not be there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from bitdial.search.readers.found import RUNNING, FoundRun, Metrics, UnreadableError, flatten, number, settings
from bitdial.search.readers.record_file import MAGIC, Damage, framed, record_type

_ODD = {f"{quote}{word}{quote}" for word in ("NaN", "Infinity", "-Infinity") for quote in ("", '"')}


def read_wandb(path: Path, name: str) -> list[FoundRun]:
    """Read the run in a ``.wandb`` file.

    The summary wins over the last value that was logged; where they differ, that is kept as ``NAME.last``.

    Raises:
        UnreadableError: it is no such file.
    """
    run, damage = _Run(), Damage()
    with path.open("rb") as file:
        if (start := file.read(len(MAGIC))) != MAGIC:
            raise UnreadableError("an empty file" if not start else "does not begin as a record file of wandb does")
        parse = record_type().FromString
        for data in framed(file, damage):
            try:
                record = parse(data)
            except DecodeError:
                damage.records += 1
            else:
                run.take(record)
    metrics, media = run.metrics()
    notes = [*damage.notes(), *metrics.notes()]
    if media:
        notes.append(f"media and tables are left out: {', '.join(sorted(media))}")
    if not run.any:
        notes = ["no whole record: wandb writes blocks of 32 KiB, so that a run that is killed early leaves none"]
    config = {key: value for key, value in settings(run.config).items() if not key.startswith("_wandb")}
    return [FoundRun(name, "wandb", path, run.state, config, metrics.last, run.step, notes, run.group)]


class _Run:
    """What the records of a run add up to."""

    def __init__(self) -> None:
        self.any = False
        self.state = RUNNING
        self.step: int | None = None
        self.group: str | None = None
        self.config: dict[str, Any] = {}
        self.history: dict[str, str] = {}  # name -> JSON text, parsed at the end: only the last one counts
        self.summary: dict[str, str] = {}
        self.odd: dict[str, tuple[float, Any]] = {}

    def take(self, record: Any) -> None:
        """Add a record."""
        self.any = True
        kind = record.WhichOneof("value")
        if kind == "history":
            self.step = record.history.step.num
            for item in record.history.item:
                nested = item.nested_key
                key = nested[0] if len(nested) == 1 else ".".join(nested) or item.key  # the first is the usual one
                self.history[key] = text = item.value_json or _typed(item)
                if text in _ODD and key not in self.odd:
                    self.odd[key] = float(text.strip('"')), self.step
        elif kind == "summary":
            for item in record.summary.update:
                nested = item.nested_key
                key = nested[0] if len(nested) == 1 else ".".join(nested) or item.key
                self.summary[key] = item.value_json
            for item in record.summary.remove:
                gone = item.key or ".".join(item.nested_key)
                self.summary = {key: text for key, text in self.summary.items() if not f"{key}.".startswith(f"{gone}.")}
        elif kind == "config":
            self._configure(record.config)
        elif kind == "run":
            self.group = record.run.run_group or record.run.project or None
            self._configure(record.run.config)
        elif kind == "exit":
            self.state = "failed" if record.exit.exit_code else "finished"

    def _configure(self, changes: Any) -> None:
        for item in (*changes.update, *changes.remove):
            *way, last = item.nested_key or [item.key]
            place = self.config
            for key in way:
                inner = place.get(key)
                place[key] = place = inner if isinstance(inner, dict) else {}
            place.pop(last, None)
            if (value := _parsed(item.value_json)) is not None or item.value_json == "null":
                place[last] = value

    def metrics(self) -> tuple[Metrics, set[str]]:
        """The metrics, and which names were media."""
        history, media = _values(self.history)
        summary, more = _values(self.summary)
        found = Metrics({**history, **summary}, self.odd)
        for name, value in summary.items():
            last = history.get(name, value)
            if self.state != RUNNING and repr(last) != repr(value):  # of a crash, one may be a step behind; NaN is NaN
                found.last[f"{name}.last"] = last
        return found, media | more


def _typed(item: Any) -> str:
    """The JSON text of a value in a field of its own type, as newer versions may write it."""
    kind = item.WhichOneof("value")
    if kind is None:
        return "null"
    value = getattr(item, kind)
    return str(value) if kind == "json" else json.dumps(value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _values(texts: Mapping[str, str]) -> tuple[dict[str, float], set[str]]:
    """The numbers of named JSON texts, without wandb's own; and the names of pictures, tables and their like."""
    leaves: dict[str, Any] = {}
    for name, text in texts.items():
        if not name.startswith("_"):
            leaves.update(flatten({name: _parsed(text)}))
    media = {name.removesuffix("._type") for name in leaves if name.endswith("._type")}
    values = {name: number(value) for name, value in leaves.items()}
    inside = tuple(f"{name}." for name in media)
    return {name: v for name, v in values.items() if v is not None and not name.startswith(inside)}, media
