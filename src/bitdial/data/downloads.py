"""Where downloaded datasets are kept, and what to say when a download fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitdial.errors import BitdialError


def cache_folder() -> Path:
    """Return the folder of downloaded datasets: `$BITDIAL_DATA`, else `bitdial/datasets` in the user's cache."""
    chosen = os.environ.get("BITDIAL_DATA")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitdial" / "datasets"


@contextmanager
def downloading(name: str) -> Iterator[None]:
    """Turn whatever goes wrong in a download into one sentence.

    Raises:
        BitdialError: Anything that torchvision's download raised.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        reason = " ".join(str(error).split())
        raise BitdialError(
            f"{name} is not in {cache_folder()} and downloading it failed ({reason}); check the network, or get the "
            "files by other means and give their folder as data_path"
        ) from error
