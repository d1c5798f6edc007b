"""One series of checkpoints on disk: what there is, which are worth keeping, saving one, dropping the others."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.serialization import get_unsafe_globals_in_checkpoint

from bitdial.errors import BitdialError
from bitdial.training.checkpoint.sealing import DamagedCheckpoint, read_header
from bitdial.training.checkpoint.writing import Aside, remove, save_sealed, save_text, sweep, sync_folder

logger = logging.getLogger("bitdial.training.checkpoint")

PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME = re.compile(rf"(?P<prefix>{PREFIX.pattern})-(?P<number>\d{{6,}})-epoch\d{{4,}}(?:-step\d+)?\.pt")


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
        values = asdict(self)
        del values["path"]
        if self.metric is not None and not self.ranked:
            values["metric"] = repr(self.metric)  # JSON has no NaN
        return {"format": 1, "prefix": prefix, **values}


def file_name(prefix: str, number: int, epoch: int, step: int | None) -> str:
    """Return the name of a checkpoint, such as ``checkpoint-000012-epoch0003-step450.pt``; names sort as saved."""
    return f"{prefix}-{number:06d}-epoch{epoch:04d}{'' if step is None else f'-step{step}'}.pt"


def prefix_of(name: str) -> str | None:
    """Return the prefix of a name that looks like a checkpoint of any series, or None."""
    match = _NAME.fullmatch(name)
    return match["prefix"] if match else None


def _number_of(name: str, prefix: str) -> int | None:
    """Return the number in a file name of this very series, or None for a name that is not its own."""
    match = _NAME.fullmatch(name)
    return int(match["number"]) if match and match["prefix"] == prefix else None


def _read_record(path: Path, prefix: str) -> Record | None:
    """Return the record of a file of this series by its header; None for a foreign file that merely has such a name.

    Raises:
        DamagedCheckpoint: the header cannot be read, or there is none although the name says that this is ours.
        OSError: the file cannot be opened.
    """
    header = read_header(path)
    if header is None:
        raise DamagedCheckpoint(path, "it carries no header and no checksum")
    if header.get("prefix") != prefix or header.get("number") != _number_of(path.name, prefix):
        return None  # a renamed copy: somebody wanted it, so it is not ours to delete
    values = {name: header[name] for name in Record.__dataclass_fields__ if name != "path"}
    if values["metric"] is not None:
        values["metric"] = float(values["metric"])
    return Record(path, **values)


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

    def look(self) -> list[Record]:
        """Bring the registry up to date with the folder, and return its records; only new files are opened."""
        try:
            self.names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            self.names = []
        present = {name for name in self.names if _number_of(name, self.prefix) is not None}
        self.damaged = {name: why for name, why in self.damaged.items() if name in present}
        self._known = {name: record for name, record in self._known.items() if name in present}
        for name in sorted(present - self._known.keys() - self.damaged.keys()):
            try:
                self._known[name] = _read_record(self.folder / name, self.prefix)
            except DamagedCheckpoint as error:
                self.damaged[name] = error.reason
            except FileNotFoundError:
                continue  # removed since the listing
            except (OSError, KeyError, TypeError, ValueError) as error:
                self.damaged[name] = f"it cannot be read ({error})"
        self.records = sorted((record for record in self._known.values() if record), key=lambda record: record.number)
        return self.records

    def mark_damaged(self, error: DamagedCheckpoint) -> None:
        """Strike a file that failed its checksum: it no longer takes the place of a sound one."""
        self._known.pop(error.path.name, None)
        self.damaged[error.path.name] = error.reason
        self.records = [record for record in self.records if record.path.name != error.path.name]

    @property
    def next_number(self) -> int:
        """One more than the highest number in use, damaged and half-written files included."""
        inner = (name[1:-4] if name.startswith(".") else name for name in self.names)
        return 1 + max((_number_of(name, self.prefix) or 0 for name in inner), default=0)


@dataclass(frozen=True)
class Policy:
    """What to keep of records, which come oldest first: see `CheckpointManager`."""

    keep_last_n: int
    keep_best: int
    metric: str
    higher_is_better: bool

    def best(self, records: list[Record], count: int | None = None) -> list[Record]:
        """Return the `count` records of best finite metric (all: None), best first; of equal ones the earlier first."""
        sign = -1.0 if self.higher_is_better else 1.0
        ranked = [record for record in records if record.ranked]
        return sorted(ranked, key=lambda record: (sign * (record.metric or 0.0), record.number))[:count]

    def kept(self, records: list[Record], held: set[str]) -> set[str]:
        """Return the names to keep: the last, the best, the newest that was called the best, and those in `held`."""
        marked = [record for record in records if record.marked and (record.metric is None or record.ranked)]
        keep = [*records[-self.keep_last_n :], *self.best(records, self.keep_best), *marked[-1:]]
        return held.union(record.path.name for record in keep)

    def tracking(self, records: list[Record]) -> str:
        """Return the text of the tracking file: the last ones, oldest first, and the best ones, best first."""
        best = self.best(records, self.keep_best)
        tracked = {
            "last_checkpoints": [record.path.name for record in records[-self.keep_last_n :]],
            "best_checkpoints": [{"path": record.path.name, "metric": record.metric} for record in best],
        }
        return json.dumps(tracked, indent=2, allow_nan=False)


class Series:
    """The files of one prefix in one folder, under one policy.

    The order of the writes is what makes a kill harmless: the new checkpoint is whole and has its name before the
    tracking file names it, and both are durable before anything that is no longer worth keeping is removed.
    """

    def __init__(self, folder: Path, prefix: str, policy: Policy) -> None:
        self.folder, self.prefix, self.policy = folder, prefix, policy
        self.registry = Registry(folder, prefix)
        self.tracking_path = folder / f"{prefix}_tracking.json"
        self._freeing: Aside | None = None

    def make_folder(self) -> None:
        """Make the folder, durably.

        Raises:
            BitdialError: it cannot be made or listed.
        """
        try:
            missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                sync_folder(folder.parent)
            self.registry.look()
        except OSError as error:
            reason = error.strerror or error
            raise BitdialError(
                f"cannot use {self.folder} for checkpoints: {reason}; choose a folder that you can write to"
            ) from error

    def check_policy(self) -> None:
        """Refuse to rank by one metric what was saved by another.

        Raises:
            BitdialError: the folder holds such checkpoints.
        """
        for record in self.registry.records:
            if (record.metric_name, record.higher_is_better) != (self.policy.metric, self.policy.higher_is_better):
                raise BitdialError(
                    f"{self.folder} holds checkpoints ranked by '{record.metric_name}' ({_order(record)} is better), "
                    f"got '{self.policy.metric}' ({_order(self.policy)} is better); use that metric, another folder "
                    "or another prefix"
                )

    def save(self, record: Record, state: dict[str, Any], unknown: list[str], held: Callable[[], set[str]]) -> None:
        """Save one checkpoint and the tracking file, then remove what neither the policy nor `held` keeps.

        Raises:
            BitdialError: it could not be saved; the text says why and what to do. Nothing was removed.
        """
        self.wait()  # the room of the files removed last time may be needed now
        for name in self.registry.names:
            if self._is_leftover(name) and sweep(self.folder / name):
                logger.info("removed %s, left by a save that was killed", name)
        try:
            check = (lambda temporary: _check_loads(temporary, record.path, unknown)) if unknown else None
            tracked = self.policy.tracking([*self.registry.records, record])
            save_sealed(record.path, state, record.header(self.prefix), (self.tracking_path, tracked), check)
        except OSError as error:
            raise self._failed(record.path, error) from error
        except BitdialError:
            raise
        except Exception as error:  # what pickle and torch raise for a value they cannot store is of many types
            culprit = f" (look at {', '.join(unknown)})" if unknown else ""
            raise BitdialError(
                f"cannot store checkpoint {record.path.name}: {error}{culprit}; pass tensors, numbers, strings, and "
                "dicts or lists of them"
            ) from error
        self.registry.look()
        keep = self.policy.kept(self.registry.records, held())
        failures, self._freeing = remove([each.path for each in self.registry.records if each.path.name not in keep])
        for failure in failures:
            logger.warning("could not remove an old checkpoint, trying again at the next save: %s", failure)

    def track(self) -> None:
        """Make the tracking file say what the files say, if it does not."""
        text = self.policy.tracking(self.registry.records)
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if self.tracking_path.read_text() == text:
                return
        if self.registry.records or self.tracking_path.exists():
            with contextlib.suppress(OSError):  # a folder that can only be read can still be loaded from
                save_text(self.tracking_path, text)

    def wait(self) -> None:
        """Wait until the space of the removed files is given back."""
        freeing, self._freeing = self._freeing, None
        if freeing is not None:
            freeing.finish()

    def _is_leftover(self, name: str) -> bool:
        """Whether `name` is a temporary file of this very series."""
        inner = name[1:-4]
        ours = inner == self.tracking_path.name or _number_of(inner, self.prefix) is not None
        return ours and name == f".{inner}.tmp"

    def _failed(self, path: Path, error: OSError) -> BitdialError:
        try:
            free = f"{shutil.disk_usage(self.folder).free / 1e6:,.1f} MB free there"
        except OSError:
            free = "the folder cannot be reached"
        earlier = len(self.registry.records)
        untouched = f"; the {earlier} earlier checkpoints are untouched" if earlier else ""
        return BitdialError(
            f"could not save checkpoint {path}: {error.strerror or error} ({free}); make room, lower keep_last_n or "
            f"keep_best, or choose another folder{untouched}"
        )


def _check_loads(temporary: Path, path: Path, unknown: list[str]) -> None:
    """Refuse a file that ``weights_only=True`` would not give back; types that the user allowed are fine."""
    if get_unsafe_globals_in_checkpoint(temporary):
        raise BitdialError(
            f"checkpoint {path.name} could not be loaded again safely because of {', '.join(unknown)}; "
            "store plain values instead (vars(config), array.tolist(), torch.from_numpy(array))"
        )


def _order(ranking: Record | Policy) -> str:
    return "higher" if ranking.higher_is_better else "lower"
