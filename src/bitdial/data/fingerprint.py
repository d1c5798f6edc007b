"""Which examples a run learns from and is tested on, so that later it can be told what of them has changed."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor

from bitdial.data.dataset import LabelledSplit, Split
from bitdial.errors import BitdialError
from bitdial.files import write_atomically
from bitdial.options import Config

Part = dict[str, tuple[int, str]]
"""Name of each example -> its class and what else is known of its content, in the order of the part."""


class LabelledDataset(Protocol):
    """What is asked of a data set: the names of its classes, and what a network has to know of a sample."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """In label order."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample."""
        ...

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted from each channel."""
        ...

    @property
    def std(self) -> tuple[float, ...]:
        """What each channel is divided by."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of it."""
        ...


class Fingerprint(Config):
    """The examples of each part of a data set.

    An example is called by its file below the data folder, of which size and, where the images were read anyway, CRC-32
    are kept; or by a hash of its content. Where neither is at hand, a part is its number of examples, or None.
    """

    schema_version: Literal[1] = 1
    """Version of the format."""
    crc32: int = 0
    """Sum of all else, in a file."""
    class_names: list[str] = []
    """In label order."""
    shape: list[int] = []
    """Channels, height and width of an image; of recordings, channels, intervals and samples of each modality."""
    mean: list[float] = []
    """What is subtracted from each channel: the mean of images, the minimum of recordings."""
    std: list[float] = []
    """What each channel is divided by: the standard deviation of images, the span of recordings."""
    parts: dict[str, Part | int | None]
    """The examples of train, test, ..."""
    left_out: list[str] = []
    """Examples that came later and are not used."""
    notes: list[str] = []
    """What there is to say of the data."""
    changes: list[str] = []
    """What changed since the run began, and was accepted."""
    sources: dict[str, str] = {}
    """Function of a file of the user's that makes network or data, as ``file.py:function`` -> SHA-256 of its file."""

    @classmethod
    def of(cls, dataset: LabelledDataset, parts: Mapping[str, LabelledSplit]) -> Fingerprint:
        """Of the splits of a data set."""
        seen: Counter[str] = Counter()
        return cls(
            class_names=list(dataset.class_names),
            shape=list(dataset.shape),
            mean=list(dataset.mean),
            std=list(dataset.std),
            parts={name: _part(split, seen) for name, split in parts.items()},
            notes=list(dataset.notes),
        )

    @classmethod
    def read(cls, path: Path) -> Fingerprint:
        """Read what `write` wrote.

        Raises:
            BitdialError: the file is damaged, edited, or of another version.
        """
        try:
            found = cls.model_validate_json(path.read_bytes())
            reason = "" if found.crc32 == found._sum() else "a file that was edited or damaged"
        except ValidationError as error:
            first = error.errors()[0]
            if first["loc"] == ("schema_version",):
                raise BitdialError(
                    f"{path} must have schema_version 1, got {first['input']!r}; go on with the version of bitdial "
                    "that wrote it"
                ) from error
            reason = first["msg"]
        if reason:
            raise BitdialError(
                f"{path} must say which data the run uses, got {reason}; put the file back, or remove it to go on "
                "unchecked"
            )
        return found

    def write(self, path: Path) -> None:
        """Write it atomically."""
        write_atomically(path, self.model_copy(update={"crc32": self._sum()}).model_dump_json(exclude=self._unsaid()))

    def _sum(self) -> int:
        return zlib.crc32(self.model_dump_json(exclude={"crc32", *self._unsaid()}).encode())

    def _unsaid(self) -> set[str]:
        """What a file does not say, as those of earlier versions do not."""
        return set() if self.sources else {"sources"}

    def short(self) -> dict[str, dict[str, Any]]:
        """Number and digest of the examples of each part."""
        return {name: {"examples": _size(part), "digest": _digest(part)} for name, part in self.parts.items()}

    def told(self) -> list[str]:
        """What a reader of results has to know of the data."""
        return [*self.notes, *self.changes]

    def examples(self) -> Part:
        """The named examples of all parts."""
        return {name: each for part in self.parts.values() if isinstance(part, dict) for name, each in part.items()}

    def class_of(self, number: int) -> str:
        """The name of a class."""
        return self.class_names[number] if 0 <= number < len(self.class_names) else str(number)

    def in_terms_of(self, before: Fingerprint) -> tuple[Fingerprint, dict[str, str]]:
        """The same with classes that were only renamed called as they were, and new name -> old name of these."""
        gone = {name: _members(before, name) for name in before.class_names if name not in self.class_names}
        renamed: dict[str, str] = {}
        for new in self.class_names:
            if new in before.class_names:
                continue
            has = _members(self, new)
            alike = [old for old, had in gone.items() if 2 * len(has & had) > max(len(has), len(had))]
            if len(alike) == 1 and alike[0] not in renamed.values():
                renamed[new] = alike[0]
        if not renamed:
            return self, {}
        parts = {
            name: {_with_class(key, self.class_of(each[0]), renamed): each for key, each in part.items()}
            if isinstance(part, dict)
            else part
            for name, part in self.parts.items()
        }
        names = [renamed.get(name, name) for name in self.class_names]
        return self.model_copy(update={"parts": parts, "class_names": names}), renamed

    def changes_since(self, before: Fingerprint) -> list[str]:
        """What differs from an earlier fingerprint, in the same terms; another order or division is no difference."""
        same = ("parts", "class_names", "shape")
        if all(getattr(self, name) == getattr(before, name) for name in same):
            return []  # a million names are compared in no time
        old, now = before.examples(), self.examples()
        ignored = {*old, *before.left_out}
        added = [name for name in now if name not in ignored]
        # Classes that are empty, or were left out before, make no difference.
        had, has = {before.class_of(each[0]) for each in old.values()}, {self.class_of(now[name][0]) for name in added}
        told = [f"the class '{name}' is gone" for name in before.class_names if name in had - {*self.class_names}]
        told += [f"the class '{name}' is new" for name in self.class_names if name in has - {*before.class_names}]
        if self.shape != before.shape:
            told.append(f"{things(self.shape)} of {_times(self.shape)} instead of {_times(before.shape)}")
        both = [name for name in old if name in now]
        told += _listed("added", added)
        told += _listed("removed", [name for name in old if name not in now])
        told += _listed("changed", [name for name in both if not _alike(old[name][1], now[name][1])])
        told += _listed(
            "labelled anew", [name for name in both if before.class_of(old[name][0]) != self.class_of(now[name][0])]
        )
        for name, part in before.parts.items():
            other = self.parts.get(name)
            if not (isinstance(part, dict) and isinstance(other, dict)) and _size(part) != _size(other):
                told.append(f"a part {name} of {_told(other)} instead of {_told(part)}")
        return told


def named_by_content(inputs: Tensor, seen: Counter[str], prefix: str = "") -> list[str]:
    """A name for each example of a tensor `[N, ...]`: a hash of its content, numbered where several are equal."""
    rows = _bytes(inputs)
    names = []
    for row in rows:
        name = prefix + blake2b(row, digest_size=8).hexdigest()
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}+{seen[name] - 1}")
    return names


def part_of_tensors(inputs: Tensor, labels: Tensor, prefix: str) -> Part:
    """The part that pairs of inputs and labels of any kind are; the class is left open."""
    if not (labels.is_floating_point() or labels.is_complex()):
        labels = labels.long()  # the loss makes them so too
    names = named_by_content(inputs, Counter(), prefix)
    return {
        name: (-1, blake2b(row, digest_size=8).hexdigest()) for name, row in zip(names, _bytes(labels), strict=True)
    }


def _members(fingerprint: Fingerprint, name: str) -> set[tuple[str, str]]:
    """The examples of a class, without the class in their names."""
    return {
        (_with_class(key, name, {name: ""}), mark)
        for key, (number, mark) in fingerprint.examples().items()
        if fingerprint.class_of(number) == name
    }


def _part(split: LabelledSplit, seen: Counter[str]) -> Part | int:
    labels = split.labels.tolist()
    if split.files is not None:
        return {name: (label, mark) for (name, mark), label in zip(split.files, labels, strict=True)}
    if not isinstance(split, Split):
        return len(split)
    return {name: (label, "") for name, label in zip(named_by_content(split.images, seen), labels, strict=True)}


def _bytes(values: Tensor) -> Any:
    """Each entry of a tensor as a row of bytes."""
    return values.detach().cpu().contiguous().reshape(len(values), -1).view(torch.uint8).numpy()


def _with_class(name: str, folder: str, names: Mapping[str, str]) -> str:
    """The name of a file with another name for the folder of its class; a name of another kind as it is."""
    return f"/{name}".replace(f"/{folder}/", f"/{names.get(folder, folder)}/", 1).removeprefix("/")


def _alike(one: str, other: str) -> bool:
    """Whether two marks, `SIZE` or `SIZE-CRC`, may be of the same content."""
    shared = min(one.count("-"), other.count("-")) + 1
    return one.split("-")[:shared] == other.split("-")[:shared]


def _listed(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    if "/" not in names[0]:
        return [f"{len(names)} {'example' if len(names) == 1 else 'examples'} {what}"]
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return [f"{len(names)} {'file' if len(names) == 1 else 'files'} {what} ({shown})"]


def things(shape: Sequence[int]) -> str:
    """What has such a shape."""
    return "images" if len(shape) == 3 and shape[1] == shape[2] else "recordings"


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _digest(part: Part | int | None) -> str | None:
    if not isinstance(part, dict):
        return None
    return blake2b(repr(list(part.items())).encode(), digest_size=16).hexdigest()


def _told(part: Part | int | None) -> str:
    size = _size(part)
    return "unknown length" if size is None else f"length {size}"


def _size(part: Part | int | None) -> int | None:
    return len(part) if isinstance(part, dict) else part
