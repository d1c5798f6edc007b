"""Finished runs of every kind, read into records of one form: their settings, and what came out.

What wrote a run need not be installed, and nothing is written. What lies in a folder may be damaged in any way: what
is whole is kept, with a note; what is not is named with the reason.
"""

from __future__ import annotations

from pathlib import Path

from bitdial.errors import BitdialError
from bitdial.search.readers.found import FoundRun, Unread

__all__ = ["FoundRun", "Unread", "check_folder", "read_runs"]


def check_folder(path: Path) -> None:
    """Refuse what is no folder.

    Raises:
        BitdialError: the text says what is there.
    """
    if not path.is_dir():
        what = "a file" if path.exists() else "nothing"
        raise BitdialError(f"expected a folder of runs at {path}, got {what}; check the path")


def read_runs(folder: Path) -> tuple[list[FoundRun], list[Unread]]:
    """Read every run in a folder, however deep: of bitdial, wandb, TensorBoard, CSV, JSON, trackio and Optuna.

    Args:
        folder: where to look; a single file will do.

    Returns:
        The runs in the order of their names, and what looks like a run and could not be read.

    Raises:
        BitdialError: there is no such folder; never for what is inside.
    """
    from bitdial.search.readers.scan import Scan, settled

    root = Path(folder)
    if not root.exists():
        raise BitdialError(f"expected a folder of finished runs, got {root}, which is not there; check the path")
    scan = Scan(root)
    scan.go()
    return settled(scan.runs), sorted(scan.unread, key=lambda each: str(each.path))
