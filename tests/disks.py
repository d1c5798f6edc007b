"""Disks that are soon full, for the tests of what is lost then."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A new folder with so much disk (as ``mount`` takes it); skips where the system does not let us mount one."""
    folder.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    except OSError:
        pytest.skip("no mount program")
    if done.returncode:
        pytest.skip("may not mount a file system here")
    try:
        yield folder
    finally:  # whatever the test found: a disk that stays is in the way of all later ones
        subprocess.run(["umount", "-l", folder], check=True)
