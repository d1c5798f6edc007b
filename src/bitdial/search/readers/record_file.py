"""The records in a ``.wandb`` file: framed as LevelDB's logs are, each a protobuf message of which a part is read."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

MAGIC = bytes.fromhex("3a572642e1be00")  # ":W&B", a number of its own, and the version of the framing, 0
BLOCK = 32 * 1024
_HEADER = struct.Struct("<IHB")  # checksum, length, type
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_TYPE_SUMS = {kind: zlib.crc32(bytes([kind])) for kind in (_FULL, _FIRST, _MIDDLE, _LAST)}


@dataclass
class Damage:
    """What of a file could not be read."""

    blocks: int = 0
    """Blocks with a wrong checksum in them."""
    records: int = 0
    """Records of right checksum that are no message."""
    cut: bool = False
    """Whether the end is missing."""

    def notes(self) -> list[str]:
        """In words."""
        told = [f"damaged blocks of 32 KiB were read in part: {self.blocks}"] if self.blocks else []
        told += [f"damaged records are left out: {self.records}"] if self.records else []
        return told + (["the end of the file is missing; what was whole is kept"] if self.cut else [])


def framed(file: BinaryIO, damage: Damage) -> Iterator[bytes]:
    """Yield the records of a file that stands after its magic bytes, a block in memory at a time.

    After a damaged record reading goes on with the next block, as LevelDB's own reader does.
    """
    parts: list[bytes] | None = None
    at = len(MAGIC)
    block = bytes(at) + file.read(BLOCK - at)
    while len(block) > at:
        while at + _HEADER.size <= len(block):
            checksum, length, kind = _HEADER.unpack_from(block, at)
            start, at = at + _HEADER.size, at + _HEADER.size + length
            data = block[start:at]
            if len(data) < length and len(block) < BLOCK:
                damage.cut = True
                return
            if len(data) < length or zlib.crc32(data, _TYPE_SUMS.get(kind, 0)) != checksum or kind not in _TYPE_SUMS:
                damage.blocks += 1
                parts, at = None, len(block)
            elif kind == _FULL:
                yield data
                parts = None
            elif kind == _FIRST:
                parts = [data]
            elif parts is not None:  # else the rest of a record that began in a damaged block
                parts.append(data)
                if kind == _LAST:
                    yield b"".join(parts)
                    parts = None
        short = len(block) < BLOCK
        damage.cut = damage.cut or (short and at < len(block))
        block, at = (b"", 0) if short else (file.read(BLOCK), 0)
    damage.cut = damage.cut or parts is not None


@functools.cache
def record_type() -> Any:
    """The class of a record, made here so that wandb need not be there: of what it holds only what is read.

    Fields that are not declared are skipped, as protobuf does with those of newer versions.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    messages: dict[str, list[tuple[str, int, Any, bool]]] = {  # name, number, type, several
        "Item": [  # of history, summary and config alike
            ("key", 1, kinds.TYPE_STRING, False),
            ("nested_key", 2, kinds.TYPE_STRING, True),
            ("boolean", 4, kinds.TYPE_BOOL, False),
            ("integer", 5, kinds.TYPE_SINT64, False),
            ("number", 6, kinds.TYPE_DOUBLE, False),
            ("text", 7, kinds.TYPE_STRING, False),
            ("json", 8, kinds.TYPE_STRING, False),
            ("value_json", 16, kinds.TYPE_STRING, False),
        ],
        "Step": [("num", 1, kinds.TYPE_INT64, False)],
        "History": [("item", 1, "Item", True), ("step", 2, "Step", False)],
        "Changes": [("update", 1, "Item", True), ("remove", 2, "Item", True)],
        "Run": [
            ("project", 3, kinds.TYPE_STRING, False),
            ("config", 4, "Changes", False),
            ("run_group", 6, kinds.TYPE_STRING, False),
        ],
        "Exit": [("exit_code", 1, kinds.TYPE_INT32, False)],
        "Record": [
            ("history", 2, "History", False),
            ("summary", 3, "Changes", False),
            ("config", 5, "Changes", False),
            ("run", 17, "Run", False),
            ("exit", 18, "Exit", False),
        ],
    }
    file = descriptor_pb2.FileDescriptorProto(name="records.proto", package="records", syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, place, kind, several in fields:
            made = message.field.add(name=field, number=place, label=3 if several else 1)
            if isinstance(kind, str):
                made.type, made.type_name = kinds.TYPE_MESSAGE, f".records.{kind}"
            else:
                made.type = kind
            if name == "Record" or (name == "Item" and 4 <= place <= 8):  # one of them, and which one can be asked
                made.oneof_index = 0
        if name in ("Item", "Record"):
            message.oneof_decl.add(name="value")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("records.Record"))
