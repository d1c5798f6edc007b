"""The file that a compressed picture is kept in; every byte of it is under a checksum.

The layout is described in ``docs/codec_format.md``.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitdial.compression.coding.arrays import check_whole, whole_numbers
from bitdial.compression.coding.tables import Tables
from bitdial.errors import BitdialError

MAGIC = b"\x89bdc"
VERSION = 1
MAX_PIXELS = 2**26
"""What is decoded unless the caller allows more: 67 million pixels, such as 8192 x 8192."""
TILE = 512
"""The side of the tiles that pictures are computed in, in pixels, unless the encoder asks for another."""
TILE_UNIT, MAX_TILE = 64, 1024
"""Sides are multiples of the first up to the second, which bounds a decoder's memory."""
MODES = ("L", "RGB")

_HEAD = struct.Struct("<4sBBBBII16sI")
_CHUNK = struct.Struct("<II")
_CRC = struct.Struct("<I")
_ID = re.compile("[0-9a-f]{32}")


class DamagedFile(BitdialError):  # noqa: N818  (named for what it is, not for being raised)
    """A compressed picture that is cut short or altered."""


@dataclass(frozen=True)
class File:
    """A compressed picture.

    Args:
        model_id: of the model that wrote it, by `model_id`: 32 hex digits.
        width, height: of the picture, in pixels.
        mode: "RGB", or "L" where it was grey.
        chunks: what the coder wrote, one for each coding step.
        symbols_crc: of all symbols, by `symbols_crc`.
        tile: the side of the tiles that it was computed in.

    Raises:
        BitdialError: a value that the format has no place for.
    """

    model_id: str
    width: int
    height: int
    mode: str
    chunks: tuple[bytes, ...]
    symbols_crc: int
    tile: int = TILE

    def __post_init__(self) -> None:
        if not isinstance(self.model_id, str) or not _ID.fullmatch(self.model_id):
            raise BitdialError(f"model_id must be 32 hex digits, got {self.model_id!r}; take it from model_id(...)")
        if self.mode not in MODES:
            raise BitdialError(f'mode must be "RGB" or "L", got {self.mode!r}; convert the picture')
        check_whole("width", self.width, 1, 2**32 - 1)
        check_whole("height", self.height, 1, 2**32 - 1)
        check_whole("symbols_crc", self.symbols_crc, 0, 2**32 - 1)
        sound = isinstance(self.chunks, tuple) and all(isinstance(c, bytes) and len(c) < 2**32 for c in self.chunks)
        if not sound or not 1 <= len(self.chunks) < 2**8:
            raise BitdialError("chunks must be a tuple of bytes, one for each coding step, from 1 to 255")
        check_tile(self.tile)

    def check(self, symbols: Iterable[Any]) -> None:
        """Refuse decoded symbols that are not those that were encoded, so that no wrong picture comes out in silence.

        Args:
            symbols: those of every tile and step, in the order in which they are decoded.
        """
        found = symbols_crc(symbols)
        if found != self.symbols_crc:
            raise DamagedFile(
                f"decoded symbols must have the checksum {self.symbols_crc:08x}, got {found:08x}: this machine "
                "computes other entropy parameters than the one that encoded; decode on the CPU, with the same torch"
            )


def write(file: File) -> bytes:
    """The bytes of a file: 40 more than its chunks, and 8 for each of them."""
    if not isinstance(file, File):
        raise BitdialError(f"what is written must be a File, got {type(file).__name__}")
    head = _HEAD.pack(
        MAGIC, VERSION, MODES.index(file.mode), len(file.chunks), file.tile // TILE_UNIT, file.width, file.height,
        bytes.fromhex(file.model_id), file.symbols_crc,
    )  # fmt: skip
    head += b"".join(_CHUNK.pack(len(chunk), zlib.crc32(chunk)) for chunk in file.chunks)
    return b"".join([head, _CRC.pack(zlib.crc32(head)), *file.chunks])


def check_tile(side: object, multiple: int = TILE_UNIT) -> None:
    """Refuse sides of tiles that the format has no place for, or that are no multiple of a model's."""
    check_whole("tile", side, TILE_UNIT, MAX_TILE)
    if side % TILE_UNIT or side % multiple:  # type: ignore[operator]
        raise BitdialError(f"tile must be a multiple of {max(TILE_UNIT, multiple)}, got {side}; {TILE} is the default")


def read(data: bytes, *, model_id: str | None = None, max_pixels: int = MAX_PIXELS, path: str = "this file") -> File:
    """The file that `write` gave these bytes for; nothing is allocated but for what they hold.

    Args:
        data: the whole file.
        model_id: of the model that is to decode it; None: whichever wrote it.
        max_pixels: the largest picture that there is memory for.
        path: what messages call the file.

    Raises:
        DamagedFile: a byte differs from what was written, bytes are missing, or there are more.
        BitdialError: another kind of file, of another version or model, or a larger picture.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise BitdialError(f"a compressed picture must be read from bytes, got {type(data).__name__}")
    check_whole("max_pixels", max_pixels, 1)
    data = bytes(data)
    _check_kind(data, path)
    if len(data) < _HEAD.size:
        raise _damaged(path, f"it is cut short: {len(data)} bytes are less than a header")
    _, _, mode, count, units, width, height, identity, crc = _HEAD.unpack_from(data)
    end = _HEAD.size + count * _CHUNK.size
    if len(data) < end + _CRC.size:
        raise _damaged(path, f"it is cut short: {len(data)} bytes are less than its header with {count} chunks")
    if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise _damaged(path, "its header does not match its checksum")
    tile = units * TILE_UNIT
    if mode >= len(MODES) or not (count and width and height and 0 < tile <= MAX_TILE):
        said = f"mode {mode}, {count} chunks, {width} x {height} pixels, tiles of {tile}"
        raise _damaged(path, f"its header says {said}")
    if width * height > max_pixels:
        raise BitdialError(
            f"{path} must hold at most {max_pixels} pixels, got {width} x {height}; allow more with max_pixels if "
            "there is memory for it"
        )
    if model_id is not None and identity.hex() != model_id:
        raise BitdialError(
            f"{path} must be decoded by the model that wrote it, {identity.hex()}, got model {model_id}; "
            "name the run or file of that one"
        )
    return File(identity.hex(), width, height, MODES[mode], _chunks(data, end, count, path), crc, tile)


def symbols_crc(symbols: Iterable[Any]) -> int:
    """The CRC32 of symbols as int32, little endian, one array of whole numbers after the other."""
    if not isinstance(symbols, Iterable):
        raise BitdialError(f"symbols must be an array for each step, got {type(symbols).__name__}")
    crc = 0
    for part in symbols:
        crc = zlib.crc32(whole_numbers("symbols", part).astype("<i4").tobytes(), crc)
    return crc


def model_id(state: Mapping[str, Tensor], tables: Sequence[Tables]) -> str:
    """What a model is known by in files: a hash of its weights and tables, 32 hex digits.

    Args:
        state: all tensors that decoding depends on, as of ``model.state_dict()``, in any order.
        tables: that symbols are coded by.
    """
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise BitdialError(f"state must be a dictionary of tensors by name, got {type(state).__name__}")
    if not isinstance(tables, Sequence) or not all(isinstance(each, Tables) for each in tables):
        raise BitdialError(f"tables must be a list of Tables, got {type(tables).__name__}")
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
            raise BitdialError(f"state must hold dense tensors with data, got {type(value).__name__} under {name!r}")
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name}:{plain.dtype}:{tuple(plain.shape)}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    for each in tables:
        digest.update(bytes.fromhex(each.hash))
    return digest.hexdigest()[:32]


def _damaged(path: str, reason: str) -> DamagedFile:
    return DamagedFile(f"{path} is damaged: {reason}; fetch or compress it again")


def _check_kind(data: bytes, path: str) -> None:
    if not data:
        raise _damaged(path, "it is empty")
    if not data.startswith(MAGIC[: len(data)]):
        raise BitdialError(
            f"{path} must be a picture that bitdial compressed, got another kind of file (it begins with "
            f"{data[:4]!r}); pass one that `bitdial compress` wrote"
        )
    if len(data) > len(MAGIC) and (version := data[len(MAGIC)]) != VERSION:
        raise BitdialError(
            f"{path} must be of version {VERSION}, got version {version}; use the bitdial that wrote it, or a newer one"
        )


def _chunks(data: bytes, directory_end: int, count: int, path: str) -> tuple[bytes, ...]:
    lengths = [_CHUNK.unpack_from(data, directory_end - (count - i) * _CHUNK.size) for i in range(count)]
    place = directory_end + _CRC.size
    expected = place + sum(length for length, _ in lengths)
    if len(data) != expected:
        what = "cut short" if len(data) < expected else "longer than it should be"
        raise _damaged(path, f"it is {what}: expected {expected} bytes, got {len(data)}")
    chunks = []
    for number, (length, crc) in enumerate(lengths, 1):
        chunk = data[place : place + length]
        if zlib.crc32(chunk) != crc:
            raise _damaged(path, f"chunk {number} of {count} does not match its checksum")
        chunks.append(chunk)
        place += length
    return tuple(chunks)
