"""One series of checkpoints on disk: save one, tell what there is, drop what need not be kept."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.serialization import get_unsafe_globals_in_checkpoint

from bitdial.errors import BitdialError
from bitdial.training.checkpoint.registry import Record, Registry, is_leftover, kept, tracking
from bitdial.training.checkpoint.writing import Aside, remove, save_sealed, save_text, sweep, sync_folder

logger = logging.getLogger("bitdial.training.checkpoint")


@dataclass(frozen=True)
class Policy:
    """What to keep: see `CheckpointManager`."""

    keep_last_n: int
    keep_best: int
    metric: str
    higher_is_better: bool


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

    def look(self) -> list[Record]:
        """Return the records, oldest first, after a look at the folder."""
        try:
            self.registry.look()
        except FileNotFoundError:
            self.registry.records = []
        return self.registry.records

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
            if is_leftover(name, self.prefix) and sweep(self.folder / name):
                logger.info("removed %s, left by a save that was killed", name)
        try:
            check = (lambda temporary: _check_loads(temporary, record.path, unknown)) if unknown else None
            tracked = self._tracking([*self.registry.records, record])
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
        self._prune(held())

    def track(self) -> None:
        """Make the tracking file say what the files say, if it does not."""
        text = self._tracking(self.registry.records)
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if self.tracking_path.read_text() == text:
                return
        if self.registry.records or self.tracking_path.exists():
            with contextlib.suppress(OSError):  # a folder that can only be read can still be loaded from
                save_text(self.tracking_path, text)

    def wait(self) -> None:
        """Wait until the space of the removed files is given back."""
        if self._freeing is not None:
            self._freeing.finish()
            self._freeing = None

    def _tracking(self, records: list[Record]) -> str:
        policy = self.policy
        return tracking(records, policy.keep_last_n, policy.keep_best, policy.higher_is_better)

    def _prune(self, held: set[str]) -> None:
        records, policy = self.registry.records, self.policy
        keep = kept(records, policy.keep_last_n, policy.keep_best, policy.higher_is_better, held)
        failures, self._freeing = remove([record.path for record in records if record.path.name not in keep])
        for failure in failures:
            logger.warning("could not remove an old checkpoint, trying again at the next save: %s", failure)

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
