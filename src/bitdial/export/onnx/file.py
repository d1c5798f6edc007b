"""What a file says of itself, in its metadata and in a sidecar beside it; and writing both or neither."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitdial.errors import BitdialError
from bitdial.files import write_atomically

KEY = "bitdial"
"""Entry of a model's metadata."""

FORMAT_VERSION = 1


def sidecar_of(path: str | os.PathLike[str]) -> Path:
    """The file of plain JSON beside a file of ONNX."""
    return Path(f"{os.fspath(path)}.json")


def write(path: Path, model: Any, told: Mapping[str, Any]) -> int:
    """Write a model and its sidecar; how many bytes the model has.

    Args:
        path: the model's file.
        model: of onnx; gets its metadata.
        told: plain values.

    Raises:
        BitdialError: a file cannot be written.
    """
    plain = _plain(told)
    text = json.dumps(plain, separators=(",", ":"), allow_nan=False)
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, text
    data = model.SerializeToString(deterministic=True)
    try:
        write_atomically(sidecar_of(path), (json.dumps(plain, indent=2, allow_nan=False) + "\n").encode())
        write_atomically(path, data)
    except OSError as error:
        raise BitdialError(f"{path} cannot be written: {error.strerror or error}") from error
    return len(data)


def read_told(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a file of ONNX says of itself; None where bitdial did not write it.

    Raises:
        BitdialError: it cannot be read, is no model, keeps weights in a file that is not beside it, or what it says
            makes no sense.
    """
    from bitdial.export.onnx.graph import needed

    onnx = needed("onnx")
    try:
        model = onnx.load(os.fspath(path), load_external_data=False)
    except OSError as error:
        raise BitdialError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf has several
        raise BitdialError(f"{os.fspath(path)} is no file of ONNX, or it is damaged; export it again") from error
    _check_whole(Path(path), model)
    text = next((each.value for each in model.metadata_props if each.key == KEY), None)
    if text is None:
        return None
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BitdialError(f"the metadata of {os.fspath(path)} are damaged; export it again") from error
    if not isinstance(told, dict) or told.get("format_version") != FORMAT_VERSION:
        raise BitdialError(
            f"the metadata of {os.fspath(path)} are of another version of bitdial; use the one it is from"
        )
    return told


def _check_whole(path: Path, model: Any) -> None:
    """Refuse a model whose weights stand in another file that did not come along (bitdial's own are whole)."""
    entries = (entry for each in model.graph.initializer for entry in each.external_data)
    for place in {entry.value for entry in entries if entry.key == "location"}:
        if not (path.parent / place).is_file():
            raise BitdialError(
                f"{path} keeps weights in {place!r}, which is not beside it; put that file into the same folder"
            )


def _plain(value: Any) -> Any:
    """Plain values, numbers that are none as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
