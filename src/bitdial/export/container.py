"""A safetensors file that checks itself: tensors and one description, under a checksum of every byte of the file.

The header's metadata have one entry, ``bitdial``: a JSON object with the format, its version, the SHA-256 of the file
and whatever the format needs. The checksum is taken with 64 zeros in its own place, so that it covers the header too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from bitdial.errors import BitdialError
from bitdial.files import write_atomically

KEY = "bitdial"
FORMAT = "packed"
VERSION = 1

_UNKNOWN = "0" * 64
_DIGEST = re.compile("[0-9a-f]{64}")


class DamagedPackedFile(BitdialError):  # noqa: N818  (named for what it is, not for being raised)
    """A packed file that is cut short or altered; its text names the file and what is wrong with it."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(f"packed file {os.fspath(path)} is damaged: {reason}; fetch or export it again")


def to_bytes(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
    """The whole file; the same tensors, in row-major order, and description, plain JSON values, give the same bytes.

    Raises:
        BitdialError: safetensors knows no such dtype.
    """
    text = json.dumps(
        {**description, "format": FORMAT, "version": VERSION, "sha256": _UNKNOWN},
        separators=(",", ":"),
        allow_nan=False,
    )
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        data = safetensors.torch.save(own, metadata={KEY: text})
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        dtypes = ", ".join(sorted({str(tensor.dtype) for tensor in own.values()}))
        raise BitdialError(
            f"a packed file must hold tensors that safetensors can save, got {dtypes}: {error}"
        ) from error
    place = data.index(_in_header(_UNKNOWN)) + len(_in_header(""))
    return data[:place] + hashlib.sha256(data).hexdigest().encode() + data[place + len(_UNKNOWN) :]


def from_bytes(data: bytes, path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a file that `to_bytes` made, every byte checked; messages call it `path`.

    Raises:
        DamagedPackedFile: a byte differs from what was written, or bytes are missing.
        BitdialError: it is another kind of file, or of a version that is not known here.
    """
    header, text = _header(data, path)
    description = _description(text, path)
    digest = description["sha256"]
    place = header.find(_in_header(digest)) if isinstance(digest, str) and _DIGEST.fullmatch(digest) else -1
    if place < 0:
        raise DamagedPackedFile(path, "its checksum cannot be read")
    start = 8 + place + len(_in_header(""))
    found = hashlib.sha256(data[:start])
    found.update(_UNKNOWN.encode())
    found.update(memoryview(data)[start + len(_UNKNOWN) :])
    if found.hexdigest() != digest:
        raise DamagedPackedFile(path, "its bytes do not match their checksum")
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedPackedFile(path, f"its tensors cannot be read ({error})") from error
    return tensors, description


def write_file(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` through a temporary file beside `path`: what stands there is the old file or the whole new one."""
    try:
        return write_atomically(path, data)
    except OSError as error:
        raise BitdialError(f"packed file {os.fspath(path)} cannot be written: {error.strerror or error}") from error


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a file, as `from_bytes` gives them and with its errors; or it cannot be read."""
    check_path(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BitdialError(f"packed file {os.fspath(path)} cannot be read: {error.strerror or error}") from error
    return from_bytes(data, path)


def check_path(path: object) -> None:
    """Refuse what is no path."""
    if not isinstance(path, str | os.PathLike):
        raise BitdialError(f"path must be the path of a file, got {type(path).__name__}")


def _in_header(digest: str) -> bytes:
    return f'\\"sha256\\":\\"{digest}'.encode()


def _header(data: bytes, path: str | os.PathLike[str]) -> tuple[bytes, str]:
    """The header's bytes, and the description in its metadata."""
    if not data:
        raise DamagedPackedFile(path, "it is empty")
    length = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else 0
    header = data[8 : 8 + length]
    if not header.startswith(b"{"):
        raise BitdialError(
            f"packed file {os.fspath(path)} must be a safetensors file, got another kind; "
            "pass one that bitdial.export.save_packed wrote"
        )
    try:
        if len(header) < length:
            raise ValueError("its header is cut short")
        metadata = json.loads(header).get("__metadata__", {})
    except (ValueError, RecursionError, AttributeError) as error:
        raise DamagedPackedFile(path, "its header cannot be read (cut short?)") from error
    text = metadata.get(KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise BitdialError(
            f"packed file {os.fspath(path)} must hold packed weights of bitdial, got another safetensors file; "
            "pass one that bitdial.export.save_packed wrote"
        )
    return header, text


def _description(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedPackedFile(path, "its description cannot be read") from error
    if not isinstance(description, dict) or not {"format", "version", "sha256"} <= description.keys():
        raise DamagedPackedFile(path, "its description has no format, version or checksum")
    if description["format"] != FORMAT or description["version"] != VERSION:
        raise BitdialError(
            f'packed file {os.fspath(path)} must be of format "{FORMAT}", version {VERSION}, got '
            f"{description['format']!r}, version {description['version']!r}; use the bitdial that wrote it"
        )
    return description
