"""Which checkpoints there are, and which of them are worth keeping: file names, headers, ranking."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitdial.training.checkpoint.sealing import DamagedCheckpoint, read_header

_NAME = r"(?P<number>\d{6,})-epoch(?P<epoch>\d{4,})(?:-step(?P<step>\d+))?\.pt"
_ANY_NAME = re.compile(rf"(?P<prefix>[A-Za-z0-9][A-Za-z0-9._-]*)-{_NAME}")
PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Record:
    """One checkpoint file, as its own name and header describe it.

    Attributes:
        path: the file.
        number: counts the saves of this series; the order of the files.
        epoch: as given to the save.
        step: as given to the save, or None.
        metric: the value that the file is ranked by; None when none was given; may be NaN or infinite.
        metric_name: what `metric` measures.
        higher_is_better: how `metric` is ranked.
        marked: whether the caller called it the best.
    """

    path: Path
    number: int
    epoch: int
    step: int | None
    metric: float | None
    metric_name: str
    higher_is_better: bool
    marked: bool

    @property
    def ranked(self) -> bool:
        """Whether the metric can be compared at all."""
        return self.metric is not None and math.isfinite(self.metric)

    def header(self, prefix: str) -> dict[str, Any]:
        """Return the header to seal the file with."""
        return {
            "format": 1,
            "prefix": prefix,
            "number": self.number,
            "epoch": self.epoch,
            "step": self.step,
            "metric": self.metric if self.metric is None or self.ranked else repr(self.metric),  # JSON has no NaN
            "metric_name": self.metric_name,
            "higher_is_better": self.higher_is_better,
            "marked": self.marked,
        }


def file_name(prefix: str, number: int, epoch: int, step: int | None) -> str:
    """Return the name of a checkpoint, such as ``checkpoint-000012-epoch0003-step450.pt``; names sort as saved."""
    return f"{prefix}-{number:06d}-epoch{epoch:04d}{'' if step is None else f'-step{step}'}.pt"


def number_of(name: str, prefix: str) -> int | None:
    """Return the number in a file name of this very series, or None for a name that is not its own."""
    match = _ANY_NAME.fullmatch(name)
    return int(match["number"]) if match and match["prefix"] == prefix else None


def prefix_of(name: str) -> str | None:
    """Return the prefix of a name that looks like a checkpoint of any series, or None."""
    match = _ANY_NAME.fullmatch(name)
    return match["prefix"] if match else None


def is_leftover(name: str, prefix: str) -> bool:
    """Whether `name` is a temporary file of this very series."""
    if not (name.startswith(".") and name.endswith(".tmp")):
        return False
    inner = name[1:-4]
    return inner == f"{prefix}_tracking.json" or number_of(inner, prefix) is not None


def read_record(path: Path, prefix: str) -> Record | None:
    """Return the record of a file of this series by its header; None for a foreign file that merely has such a name.

    Raises:
        DamagedCheckpoint: the header cannot be read, or the name says that this is ours and it has none.
        OSError: the file cannot be opened.
    """
    number = number_of(path.name, prefix)
    if number is None:
        return None
    header = read_header(path)
    if header is None:
        raise DamagedCheckpoint(path, "it carries no header and no checksum")
    if header.get("prefix") != prefix or header.get("number") != number:
        return None  # a renamed copy: somebody wanted it, so it is not ours to delete
    metric = header["metric"]
    return Record(
        path=path,
        number=number,
        epoch=header["epoch"],
        step=header["step"],
        metric=None if metric is None else float(metric),
        metric_name=header["metric_name"],
        higher_is_better=header["higher_is_better"],
        marked=header["marked"],
    )


class Registry:
    """The checkpoints of one series in one folder, as the files themselves tell.

    Attributes:
        records: the readable files, oldest first.
        damaged: file name -> reason, of files of this series that cannot be used.
        names: everything in the folder at the last look.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix
        self.records: list[Record] = []
        self.damaged: dict[str, str] = {}
        self.names: list[str] = []
        self._known: dict[str, Record | None] = {}

    def look(self) -> None:
        """Bring the registry up to date with the folder; only files that are new are opened."""
        self.names = sorted(os.listdir(self.folder))
        present = {name for name in self.names if number_of(name, self.prefix) is not None}
        self.damaged = {name: why for name, why in self.damaged.items() if name in present}
        self._known = {name: record for name, record in self._known.items() if name in present}
        for name in sorted(present - self._known.keys() - self.damaged.keys()):
            try:
                self._known[name] = read_record(self.folder / name, self.prefix)
            except DamagedCheckpoint as error:
                self.damaged[name] = error.reason
            except FileNotFoundError:
                continue  # removed since the listing
            except (OSError, KeyError, TypeError, ValueError) as error:
                self.damaged[name] = f"it cannot be read ({error})"
        self.records = sorted((record for record in self._known.values() if record), key=lambda record: record.number)

    def mark_damaged(self, error: DamagedCheckpoint) -> None:
        """Strike a file that failed its checksum: it no longer takes the place of a sound one."""
        self._known.pop(error.path.name, None)
        self.damaged[error.path.name] = error.reason
        self.records = [record for record in self.records if record.path.name != error.path.name]

    @property
    def next_number(self) -> int:
        """One more than the highest number in use, damaged and half-written files included."""
        inner = (name[1:-4] if name.startswith(".") else name for name in self.names)
        return 1 + max((number_of(name, self.prefix) or 0 for name in inner), default=0)


def best(records: Iterable[Record], count: int, higher_is_better: bool) -> list[Record]:
    """Return the `count` records of best finite metric, best first; of equal ones the earlier saved comes first."""
    sign = -1.0 if higher_is_better else 1.0
    ranked = [record for record in records if record.ranked]
    return sorted(ranked, key=lambda record: (sign * (record.metric or 0.0), record.number))[:count]


def marked(records: Iterable[Record]) -> list[Record]:
    """Return the newest record that the caller called the best, if its metric is fit for that, as a list."""
    fit = [record for record in records if record.marked and (record.metric is None or record.ranked)]
    return fit[-1:]


def kept(records: Sequence[Record], last_n: int, best_n: int, higher_is_better: bool, held: set[str]) -> set[str]:
    """Return the names to keep: the last `last_n`, the best `best_n`, the newest marked one and those in `held`."""
    keep = [*records[-last_n:], *best(records, best_n, higher_is_better), *marked(records)]
    return {record.path.name for record in keep} | {record.path.name for record in records if record.path.name in held}


def tracking(records: Sequence[Record], last_n: int, best_n: int, higher_is_better: bool) -> str:
    """Return the text of the tracking file, paths relative to the folder.

    ``last_checkpoints`` is a list of paths, oldest first; ``best_checkpoints`` one of ``{path, metric}``, best first.
    """
    ranked = best(records, best_n, higher_is_better)
    return json.dumps(
        {
            "last_checkpoints": [record.path.name for record in records[-last_n:]],
            "best_checkpoints": [{"path": record.path.name, "metric": record.metric} for record in ranked],
        },
        indent=2,
        allow_nan=False,
    )
