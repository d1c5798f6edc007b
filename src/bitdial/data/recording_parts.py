"""Which segments are in which part: the index files read, or recordings held out; recordings in several parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bitdial.errors import BitdialError

INDICES = {part: f"{part}_index.txt" for part in ("train", "val", "test")}


def listed(place: Path) -> tuple[Path, dict[str, list[Path]]]:
    """The folder of the index files, and the segments of each part."""
    if place.is_file():
        return place.parent, {"train": _index(place)}
    if not place.is_dir():
        raise BitdialError(
            f"no folder {place}; expected {', '.join(INDICES.values())} in it; give data_path if it moved"
        )
    found = {part: place / name for part, name in INDICES.items() if (place / name).exists()}
    if "train" not in found:
        there = f"; it has {', '.join(each.name for each in found.values())}" if found else ""
        raise BitdialError(
            f"no train_index.txt in {place}{there}; write one with the path of a segment's .pt file in each line"
        )
    return place, {part: _index(path) for part, path in found.items()}


def _index(index: Path) -> list[Path]:
    if index.is_dir():
        raise BitdialError(f"expected a file with a path a line at {index}, got a folder; put the index there")
    try:
        lines = [line.strip() for line in index.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise BitdialError(
            f"{index} must be text with a path a line, got bytes that are none; save it as UTF-8"
        ) from error
    paths = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        path = index.parent / line  # an absolute one stays as it is
        if not path.is_file():
            what = "a folder" if path.is_dir() else "nothing there"
            raise BitdialError(
                f"{index}, line {number}: expected the file of a segment at {path}, got {what}; put it back, or take "
                "the line out"
            )
        paths.append(path)
    if not paths:
        raise BitdialError(f"{index} is empty, expected the path of a segment's .pt file in each line; fill it")
    return paths


def by_recording(
    recordings: Sequence[str], labels: Tensor, fraction: float, seed: int, what: str
) -> tuple[Tensor, Tensor]:
    """Rows that are kept and rows held out, whole recordings; of every class its share where each recording has one."""
    classes: dict[str, set[int]] = {}
    for name, label in zip(recordings, labels.tolist(), strict=True):
        classes.setdefault(name, set()).add(label)
    alike = all(len(found) == 1 for found in classes.values())
    strata: dict[int, list[str]] = {}
    for name, found in sorted(classes.items()):
        strata.setdefault(min(found) if alike else 0, []).append(name)
    generator = torch.Generator().manual_seed(seed)
    held: set[str] = set()
    for names in strata.values():
        order = torch.randperm(len(names), generator=generator).tolist()
        count = min(max(1, round(len(names) * fraction)), len(names) - 1)
        held |= {names[number] for number in order[:count]}
    if not held:
        raise BitdialError(
            f"expected several recordings of a class in {what} to hold one out, got {len(classes)} recordings "
            f"({', '.join(list(classes)[:5])}); add some, or give --signals.split_by segment"
        )
    out = torch.tensor([name in held for name in recordings])
    return (~out).nonzero().flatten(), out.nonzero().flatten()


def leaks(recordings: Sequence[str], parts: Mapping[str, Tensor]) -> list[str]:
    """A warning for each pair of parts that share recordings, which names them."""
    found = {part: dict.fromkeys(recordings[row] for row in rows.tolist()) for part, rows in parts.items()}
    told, names = [], list(found)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            shared = [name for name in found[first] if name in found[second]]
            if shared:
                shown = ", ".join(shared[:10]) + (f" and {len(shared) - 10} more" if len(shared) > 10 else "")
                told.append(
                    f"WARNING: the parts {first} and {second} hold segments of the same recordings ({shown}), so that "
                    "scores say less of new recordings: divide the index files by recording."
                )
    return told
