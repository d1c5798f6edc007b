"""The events in a file of TensorBoard, with checksums of many at once: its own reader adds them up byte by byte."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

_CHUNK = 2**20
_ROW = 128  # bytes of a record whose checksums are added up side by side
_HEADER = struct.Struct("<QI")  # length, its checksum
_SUM = struct.Struct("<I")


@dataclass
class Damage:
    """What of a file could not be read."""

    records: int = 0
    """Records with a wrong checksum, which were left out."""
    lost: bool = False
    """Whether a damaged length ended the reading."""
    cut: bool = False
    """Whether the last record is not whole."""

    def notes(self, name: str) -> list[str]:
        """In words."""
        told = [f"{name}: damaged events are left out: {self.records}"] if self.records else []
        told += [f"{name}: damaged in its middle; what comes after is lost"] if self.lost else []
        return told + ([f"{name}: the last event is not whole and was left out"] if self.cut else [])


def events(file: BinaryIO, damage: Damage) -> Iterator[bytes]:
    """Yield the records of an open file, a MiB in memory at a time (a record that is longer, whole)."""
    held = b""
    while new := file.read(max(_CHUNK, len(held))):  # as much again: a long record is not gone over for every MiB of it
        held += new
        starts, sums, at, end = list[int](), list[int](), 0, 0
        while at + _HEADER.size <= len(held):
            length, own = _HEADER.unpack_from(held, at)
            starts.append(at)
            sums.append(own)
            end = at + _HEADER.size + length + _SUM.size
            if end > len(held):  # it goes on beyond what is held, if its length is right
                break
            at = end
        data, begins = np.frombuffer(held, np.uint8), np.array(starts, np.int64)
        right = masked_sums(data, begins, begins + 8) == np.array(sums, np.uint32)
        count = len(right) - (end > len(held)) if right.all() else int(np.argmin(right))
        begins, ends = begins[:count], np.array([*starts[1:], at][:count], np.int64) - _SUM.size
        stored = [_SUM.unpack_from(held, end)[0] for end in ends]
        sound = masked_sums(data, begins + _HEADER.size, ends) == np.array(stored, np.uint32)
        damage.records += count - int(sound.sum())
        for begin, end in zip(begins[sound].tolist(), ends[sound].tolist(), strict=True):
            yield held[begin + _HEADER.size : end]
        if not right.all():
            damage.lost = True
            return
        held = held[at:]
    damage.cut = bool(held)


Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Places = np.ndarray[Any, np.dtype[np.int64]]
Sums = np.ndarray[Any, np.dtype[np.uint32]]


def masked_sums(data: Bytes, starts: Places, ends: Places) -> Sums:
    """The checksum of each stretch of bytes, CRC-32C as TFRecord files mask it.

    A stretch is cut into rows that end where it ends; in front of the first one stand zeros, which leave a checksum
    that begins with 0 as it is. (CRC-32C begins with ones: the first four bytes are turned over instead.) All rows are
    gone through together, a byte of each at a time, and the rows of a stretch are put together after that.
    """
    lengths = ends - starts
    width = int(min(_ROW, lengths.max(initial=1)))
    rows = np.maximum(1, -(-lengths // width))
    first, last = np.repeat(starts, rows), np.repeat(ends, rows)
    after = np.repeat(np.cumsum(rows), rows) - np.arange(len(first)) - 1  # how many rows of its stretch follow a row
    places = (last - width * after) + np.arange(-width, 0)[:, None]
    taken = np.where(places >= first, data[np.maximum(places, 0)], 0) ^ np.where(
        (places >= first) & (places < first + 4), 0xFF, 0
    )
    sums, table = np.zeros(len(first), np.uint32), _table()
    for column in taken.astype(np.uint8):
        sums = table[(sums ^ column) & 0xFF] ^ (sums >> 8)
    if len(sums) > len(rows):
        sums = _joined(sums.tolist(), rows.tolist())
    for index in np.flatnonzero(lengths < 4):
        sums[index] = _short_sum(data[starts[index] : ends[index]].tobytes())
    sums ^= np.uint32(0xFFFFFFFF)
    return ((sums >> np.uint32(15)) | (sums << np.uint32(17))) + np.uint32(0xA282EAD8)


def _short_sum(record: bytes) -> int:
    total = 0xFFFFFFFF
    for byte in record:
        total = int(_table()[(total ^ byte) & 0xFF]) ^ (total >> 8)
    return total


def _joined(sums: list[int], rows: list[int]) -> Sums:
    """Checksums of records out of those of their rows."""
    a, b, c, d = _over_a_row()
    joined, at = list[int](), 0
    for count in rows:
        total = sums[at]
        for own in sums[at + 1 : at + count]:
            total = a[total & 0xFF] ^ b[total >> 8 & 0xFF] ^ c[total >> 16 & 0xFF] ^ d[total >> 24] ^ own
        joined.append(total)
        at += count
    return np.array(joined, np.uint32)


@functools.cache
def _table() -> Sums:
    sums = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        sums = np.where(sums & 1, (sums >> 1) ^ np.uint32(0x82F63B78), sums >> 1).astype(np.uint32)
    return sums


@functools.cache
def _over_a_row() -> list[list[int]]:
    """What becomes of each byte of a checksum when a full row of zeros follows; checksums are linear: they add up."""
    sums = (np.arange(256, dtype=np.uint32)[None] << np.array([[0], [8], [16], [24]], np.uint32)).astype(np.uint32)
    for _ in range(_ROW):
        sums = _table()[sums & 0xFF] ^ (sums >> 8)
    return [each.tolist() for each in sums]
