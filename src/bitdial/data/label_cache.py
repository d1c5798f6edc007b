"""What is known of each segment's file, kept so that a second start reads none of them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from bitdial.data.cache import cache_folder
from bitdial.data.segments import Segment, transformed
from bitdial.errors import BitdialError
from bitdial.files import write_atomically

_VERSION = 1


@dataclass(frozen=True)
class Known:
    """What is kept of a file.

    Attributes:
        label, mark, missing: of the `Segment`.
        shapes: modality -> shape as stored.
        extremes: modality -> least and greatest value of each channel once it is transformed.
    """

    label: int
    mark: str
    missing: list[str]
    shapes: dict[str, list[int]]
    extremes: dict[str, list[list[float]]]

    @classmethod
    def of(cls, segment: Segment, transform: str, path: Path) -> Known:
        """Of what was read of a file.

        Raises:
            BitdialError: a value is so large that its transform is infinite.
        """
        extremes = {}
        for name, signal in segment.signals.items():
            values = transformed(signal, transform).flatten(1)
            bounds = torch.stack([values.amin(1), values.amax(1)], 1)
            if not bool(bounds.isfinite().all()):
                raise BitdialError(
                    f"the spectrum of {name} in {path} is beyond float32, got samples up to "
                    f"{float(signal.abs().max()):.3g}; scale them"
                )
            extremes[name] = bounds.tolist()
        shapes = {name: list(signal.shape) for name, signal in segment.signals.items()}
        return cls(segment.label, segment.mark, list(segment.missing), shapes, extremes)


class LabelCache:
    """A file beside the index, or in the cache folder where that cannot be written.

    A file of a segment that has another size or time of change than when it was read is unknown again.
    """

    def __init__(self, folder: Path, transform: str) -> None:
        apart = blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
        name = f".bitdial-labels-{transform}.cache"
        self._places: Sequence[Path] = (folder / name, cache_folder() / "recordings" / f"{apart}{name}")
        self._folder = folder
        self._rows: dict[str, list[Any]] = {}
        for place in self._places:
            self._rows = _read(place)
            if self._rows:
                break
        self._changed = False

    def get(self, path: Path) -> Known | None:
        """What is known of a file, None where it is unknown or changed."""
        row = self._rows.get(below(self._folder, path))
        return Known(**row[1]) if row is not None and row[0] == _stamp(path) else None

    def put(self, path: Path, known: Known) -> None:
        """Remember a file that was read."""
        self._rows[below(self._folder, path)] = [_stamp(path), asdict(known)]
        self._changed = True

    def save(self, paths: Sequence[Path]) -> None:
        """Write down what is new; what is known of files other than these is forgotten."""
        if not self._changed:
            return
        keys = {below(self._folder, path) for path in paths}
        content = json.dumps([_VERSION, {key: row for key, row in self._rows.items() if key in keys}])
        for place in self._places:
            try:
                write_atomically(place, f"{zlib.crc32(content.encode()):08x}\n{content}")
            except OSError:
                continue
            return  # nowhere to write: every start reads the files again


def below(folder: Path, path: Path) -> str:
    """What a file is called below a folder, or all of its path where it is elsewhere."""
    return path.as_posix().removeprefix(f"{folder.as_posix()}/")  # a quarter of the time of `relative_to`


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _read(place: Path) -> dict[str, list[Any]]:
    """The rows of a file; none of one that is not there, damaged, or of another version."""
    try:
        total, _, content = place.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return {}
    if total != f"{zlib.crc32(content.encode()):08x}":
        return {}
    version, rows = json.loads(content)
    return rows if version == _VERSION else {}
