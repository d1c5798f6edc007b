"""What a run goes on from: another run, one of its files, a file from somewhere else, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bitdial.errors import BitdialError
from bitdial.lazy import loading_torch
from bitdial.recipes.options import RunOptions
from bitdial.training import RunFolder


@dataclass(frozen=True)
class Source:
    """What ``--resume`` names.

    Attributes:
        run: the run to go on with, or None for a new run.
        checkpoint: the file to go on from, or None for the newest of the run.
    """

    run: RunFolder | None
    checkpoint: Path | None


NEW = Source(None, None)
"""Nothing: a run from its beginning."""


def find_source(path: Path) -> Source:
    """Tell a run folder, a checkpoint inside one, and a file from elsewhere apart.

    Raises:
        BitdialError: there is nothing.
    """
    if path.name.endswith(("best.pt", "last.pt")):
        loading_torch()
        from bitdial.training.checkpoint import resolved

        path = resolved(path)
    if path.is_file():
        above = [folder for folder in path.absolute().parents if folder.name == "checkpoints"]
        inside = bool(above) and (above[0].parent / "config.yaml").is_file()
        return Source(RunFolder.open(_relative(above[0].parent)) if inside else None, path)
    if path.name == "checkpoints" and (path.parent / "config.yaml").is_file():
        path = path.parent
    if not path.exists():
        raise BitdialError(f"expected a run folder or a checkpoint to resume at {path}, got nothing; check the path")
    return Source(RunFolder.open(path), None)


def _relative(folder: Path) -> Path:
    """A folder as a user would write it."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def newest_run(root: Path, recipe: str) -> RunFolder:
    """The run folder with the highest number.

    Raises:
        BitdialError: there is none.
    """
    numbered = sorted(
        (int(path.name.rpartition("-")[2]), path)
        for path in (root.glob(f"{recipe}-*") if root.is_dir() else ())
        if path.name.rpartition("-")[2].isdigit() and (path / "config.yaml").is_file()
    )
    if not numbered:
        raise BitdialError(f"expected a run to resume under {root}/, got none; start one, or give --resume FOLDER")
    return RunFolder.open(numbered[-1][1])


def source_of(recipe: str, options: RunOptions) -> Source:
    """What a run of these options goes on from.

    Raises:
        BitdialError: it is not there.
    """
    if options.resume is False:
        return NEW
    if isinstance(options.resume, Path) and options.resume != Path("auto"):
        return find_source(options.resume)
    if options.run_dir is not None:
        return Source(RunFolder.open(options.run_dir), None)
    return Source(newest_run(options.root, recipe), None)
