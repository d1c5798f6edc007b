"""Which files of a run are offered: a list of kinds and places, never what a browser asks for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from bitdial.app.records import FileEntry
from bitdial.app.store import is_id

FIRST = ("report.html", "results.json", "config.yaml", "metrics.csv", "layers.csv", "output.log", "data.json")
TOP = (".safetensors", ".onnx", ".pt", ".html", ".csv", ".json", ".png", ".svg", ".bd")
"""Endings of what a recipe leaves in its folder besides."""
HIDDEN = {"job.json", "progress.json"}
BELOW = {
    "plots": (".png", ".svg"),
    "models": (".pt", ".safetensors", ".json"),
    "checkpoints": (".pt",),
    "pictures": (".png", ".bd"),
}
"""Folder -> endings of what is offered in it, and one folder deeper."""
MOST = 500


def offered(folder: Path) -> list[FileEntry]:
    """The files of a run that are offered, the important ones first, at most 500; never a link."""
    found = [each for each in _plain(folder, "") if each.name in FIRST or each.name.endswith(TOP)]
    rank = {name: at for at, name in enumerate(FIRST)}
    found.sort(key=lambda each: (rank.get(each.name, len(rank)), each.name))
    found = [each for each in found if each.name not in HIDDEN]
    for name, endings in BELOW.items():
        inner = [*_plain(folder / name, f"{name}/")]
        for deeper in _folders(folder / name):
            inner += _plain(folder / name / deeper, f"{name}/{deeper}/")
        found += sorted((each for each in inner if each.name.endswith(endings)), key=lambda each: each.name)
    return found[:MOST]


def _plain(folder: Path, prefix: str) -> Iterator[FileEntry]:
    for entry in _entries(folder):
        try:
            facts = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISREG(facts.st_mode):
            yield FileEntry(prefix + entry.name, facts.st_size)


def _folders(folder: Path) -> Iterator[str]:
    return (entry.name for entry in _entries(folder) if entry.is_dir(follow_symlinks=False))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return []
        with os.scandir(folder) as entries:
            return [entry for entry in entries if is_id(entry.name)]
    except OSError:
        return []
