"""The seal of a checkpoint file: a small header and a checksum of every byte, in the comment of torch's own zip file.

``torch.save`` writes an uncompressed zip archive and computes, while it writes, a CRC-32 of each record (the pickle and
every tensor). Those numbers stand in the archive's central directory. The seal therefore has to sum only what they do
not cover: local headers, padding, descriptors and the central directory itself, a few kilobytes. Together the two cover
each byte of the file, at no cost for the tensors. The zip comment is a place that every zip reader, ``torch.load``
included, skips.

Layout, from the end of the archive: ``comment = header (JSON) + structure CRC + header CRC + header length + MAGIC``.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from bitdial.errors import BitdialError

MAGIC = b"bitdial1"

_FOOTER = struct.Struct("<IIH8s")  # structure CRC, header CRC, header length, magic
_END = struct.Struct("<4s4H2LH")  # end of central directory
_END_SIGNATURE = b"PK\x05\x06"
_LOCAL = struct.Struct("<4s2B4HL2L2H")  # the header in front of a record's data
_LOCAL_SLACK = 96  # torch pads records to 64 bytes with an extra field of the local header: one read gets it all
_BLOCK = 1 << 20


class DamagedCheckpoint(BitdialError):  # noqa: N818  (named for what it is, not for being raised)
    """A checkpoint that is cut short or altered; its text names the file and what is wrong with it."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(
            f"checkpoint {os.fspath(path)} is damaged: {reason}; restore it from a copy or use another one"
        )


class _MalformedError(Exception):
    """The archive's own structure makes no sense."""


def seal(descriptor: int, size: int, header: dict[str, Any]) -> None:
    """Append a header and the checksums to a finished ``torch.save`` archive of `size` bytes, open both ways.

    The header is what must be known of the file without unpickling it: plain JSON values, less than 60 KB.

    Raises:
        OSError: the file could not be read back or written.
    """
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    _write_at(descriptor, struct.pack("<H", len(text) + _FOOTER.size), size - 2)
    try:
        _, structure_crc = _layout(descriptor, size)
    except _MalformedError as error:  # the archive was never written whole although no write failed
        raise OSError(f"the archive that was just written reads back wrong ({error})") from error
    footer = _FOOTER.pack(structure_crc, _header_crc(text, structure_crc), len(text), MAGIC)
    if _END_SIGNATURE in footer:  # checksums that readers would take for the end of the directory: one in 10^9
        seal(descriptor, size, {**header, "again": header.get("again", 0) + 1})
        return
    _write_at(descriptor, text + footer, size)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the header of a sealed file, checked against its own checksum, or None for a file that has no seal.

    Reads only the last bytes, so a flipped byte in a tensor is not noticed here: `verify` does that.

    Raises:
        DamagedCheckpoint: the file is an archive that was cut short, or its seal cannot be read.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        sealed = _read_seal(path, file.fileno())
    return None if sealed is None else sealed[0]


def verify(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Check every byte of the file and return its header; None for a file that has no seal (nothing to check against).

    Raises:
        DamagedCheckpoint: any byte differs from what was written, or bytes are missing.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        descriptor = file.fileno()
        sealed = _read_seal(path, descriptor)
        if sealed is None:
            return None
        header, structure_crc, end = sealed
        try:
            records, found = _layout(descriptor, end)
        except _MalformedError as error:
            raise DamagedCheckpoint(path, f"its structure is altered ({error})") from error
        if found != structure_crc:
            raise DamagedCheckpoint(path, "its structure does not match the checksum")
        for start, size, crc in records:
            if _crc(descriptor, start, size) != crc:
                raise DamagedCheckpoint(path, f"the data at byte {start} do not match their checksum")
        return header


def _header_crc(text: bytes, structure_crc: int) -> int:
    return zlib.crc32(struct.pack("<IH", structure_crc, len(text)), zlib.crc32(text))


def _read_seal(path: str | os.PathLike[str], descriptor: int) -> tuple[dict[str, Any], int, int] | None:
    """Return header, structure CRC and the length of the archive without its comment."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        raise DamagedCheckpoint(path, "it is empty")
    tail = os.pread(descriptor, _FOOTER.size, max(0, size - _FOOTER.size))
    if len(tail) < _FOOTER.size or not tail.endswith(MAGIC):
        _check_unsealed(path, descriptor, size)
        return None
    structure_crc, header_crc, length, _ = _FOOTER.unpack(tail)
    end = size - _FOOTER.size - length
    text = os.pread(descriptor, length, max(0, end))
    if end < _END.size or _header_crc(text, structure_crc) != header_crc:
        raise DamagedCheckpoint(path, "its header does not match the checksum")
    header: dict[str, Any] = json.loads(text)
    return header, structure_crc, end


def _check_unsealed(path: str | os.PathLike[str], descriptor: int, size: int) -> None:
    """Tell a plain ``torch.save`` file (it ends with its directory, no comment) from one of ours cut or altered."""
    if os.pread(descriptor, 4, 0) != b"PK\x03\x04":
        return  # not an archive: an old-style pickle or no checkpoint at all; the reader finds out
    tail = os.pread(descriptor, _END.size, max(0, size - _END.size))
    if len(tail) < _END.size or not tail.startswith(_END_SIGNATURE) or not tail.endswith(b"\0\0"):
        raise DamagedCheckpoint(path, "its end is missing or altered (a copy or download that stopped half-way?)")


def _layout(descriptor: int, end: int) -> tuple[list[tuple[int, int, int]], int]:
    """Return (start, size, CRC) of each record's data in ``[0, end)``, and the CRC of all other bytes."""
    try:
        with open(descriptor, "rb", closefd=False) as file, zipfile.ZipFile(file) as archive:
            directory = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OverflowError, ValueError, struct.error) as error:
        raise _MalformedError(f"its directory cannot be read: {error}") from error
    records, crc, position = [], 0, 0
    for entry in directory:
        if not position <= entry.header_offset <= end:
            raise _MalformedError("records overlap, or reach past the end")
        if entry.compress_size != entry.file_size:
            raise _MalformedError("a record is compressed")
        head = entry.header_offset - position + _LOCAL.size
        gap = os.pread(descriptor, head + len(entry.orig_filename) + _LOCAL_SLACK, position)
        if len(gap) < head:
            raise _MalformedError("a record is missing")
        *_, name_size, extra_size = _LOCAL.unpack_from(gap, head - _LOCAL.size)
        needed = head + name_size + extra_size
        if len(gap) < needed:
            gap = os.pread(descriptor, needed, position)
        crc = zlib.crc32(memoryview(gap)[:needed], crc)
        records.append((position + needed, entry.file_size, entry.CRC))
        position += needed + entry.file_size
    if position > end:
        raise _MalformedError("a record reaches past the end")
    return records, _crc(descriptor, position, end - position, crc)


def _crc(descriptor: int, start: int, size: int, crc: int = 0) -> int:
    """Return the CRC-32 of a range of the file, read in blocks."""
    stop = start + size
    while start < stop:
        block = os.pread(descriptor, min(_BLOCK, stop - start), start)
        if not block:
            raise _MalformedError("bytes are missing")
        crc = zlib.crc32(block, crc)
        start += len(block)
    return crc


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    while data:  # a nearly full disk takes a part and reports the failure only at the next call
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
