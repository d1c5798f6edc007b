"""The state of mixed precision in a file of its own."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from bitdial.errors import BitdialError
from bitdial.training.checkpoint.writing import save_text

_KIND = "scaler state 1"


def write_state(path: str | Path, state: dict[str, Any]) -> Path:
    """Write a state, whole or not at all; return its path."""
    text, file = json.dumps(state), Path(path)
    save_text(file, json.dumps({"bitdial": _KIND, "crc32": zlib.crc32(text.encode()), "state": text}))
    return file


def read_state(path: str | Path) -> dict[str, Any]:
    """Return the state that `write_state` wrote.

    Raises:
        BitdialError: there is no such file, it is damaged, or holds something else.
    """
    file = Path(path)
    if not file.is_file():
        raise BitdialError(f"expected a file that save_scaler_state wrote, got {file}, which is not there")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["bitdial"] != _KIND or zlib.crc32(content["state"].encode()) != content["crc32"]:
            raise ValueError
        state: dict[str, Any] = json.loads(content["state"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BitdialError(
            f"expected a file that save_scaler_state wrote, got {file}, which is damaged or something else; start "
            "without it: the scale settles within a few steps"
        ) from None
    return state
