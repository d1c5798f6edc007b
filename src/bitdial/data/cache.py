"""Where what was downloaded or made is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of downloaded datasets: `$BITDIAL_DATA`, else `bitdial/datasets` in the user's cache."""
    chosen = os.environ.get("BITDIAL_DATA")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitdial" / "datasets"
