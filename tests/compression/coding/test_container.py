"""The file of a compressed picture: comes back as it was, and is refused by name where it is not what was written."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitdial.compression.coding.coder import decode, encode
from bitdial.compression.coding.container import MAX_PIXELS, DamagedFile, File, model_id, read, symbols_crc, write
from bitdial.compression.coding.tables import scale_levels, scale_tables
from bitdial.errors import BitdialError

ID = "0123456789abcdef" * 2
FILE = File(ID, 640, 427, "RGB", (b"first chunk!", b"", b"3"), 0xDEADBEEF)
TABLES = scale_tables(scale_levels(8))


def repaired(data: bytes) -> bytes:
    """The same bytes under a header checksum that fits."""
    end = 36 + 8 * data[6]
    return data[:end] + struct.pack("<I", zlib.crc32(data[:end])) + data[end + 4 :]


def changed(place: int, new: bytes) -> bytes:
    data = write(FILE)
    return repaired(data[:place] + new + data[place + len(new) :])


@given(
    st.builds(
        File,
        st.binary(min_size=16, max_size=16).map(bytes.hex),
        st.integers(1, 8192),
        st.integers(1, 8192),
        st.sampled_from(["L", "RGB"]),
        st.lists(st.binary(max_size=50), min_size=1, max_size=14).map(tuple),
        st.integers(0, 2**32 - 1),
        st.integers(1, 16).map(lambda units: 64 * units),
    )
)
def test_any_file_comes_back(file: File) -> None:
    data = write(file)
    assert read(data) == file
    assert read(bytearray(data), model_id=file.model_id) == file
    assert len(data) == 40 + 8 * len(file.chunks) + sum(map(len, file.chunks))


def test_the_bytes_are_those_of_the_format() -> None:
    head = (
        struct.pack("<4sBBBBII", b"\x89bdc", 1, 1, 3, 8, 640, 427) + bytes.fromhex(ID) + struct.pack("<I", 0xDEADBEEF)
    )
    for chunk in FILE.chunks:
        head += struct.pack("<II", len(chunk), zlib.crc32(chunk))
    assert write(FILE) == head + struct.pack("<I", zlib.crc32(head)) + b"first chunk!3"


def test_every_bit_and_every_length_matters() -> None:
    data = write(FILE)
    for place in range(len(data)):
        with pytest.raises(BitdialError, match="this file"):
            read(data[:place])
        for bit in range(8):
            with pytest.raises(BitdialError, match="this file"):
                read(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"", DamagedFile, "this file is damaged: it is empty; fetch or compress it again"),
        (b"\x89PNG\r\n\x1a\n", BitdialError, r"must be a picture that bitdial compressed, got .* b'\\x89PNG'"),
        (b"BM", BitdialError, "got another kind of file"),
        (
            b"\x89bdc\x02" + bytes(60),
            BitdialError,
            "must be of version 1, got version 2; use the bitdial that wrote it",
        ),
        (b"\x89bdc\x00" + bytes(60), BitdialError, "got version 0"),
        (write(FILE)[:2], DamagedFile, "cut short: 2 bytes are less than a header"),
        (write(FILE)[:20], DamagedFile, "cut short: 20 bytes are less than a header"),
        (write(FILE)[:50], DamagedFile, "cut short: 50 bytes are less than its header with 3 chunks"),
        (write(FILE)[:-1], DamagedFile, "cut short: expected 77 bytes, got 76"),
        (write(FILE) + b"\n", DamagedFile, "longer than it should be: expected 77 bytes, got 78"),
        (write(FILE)[:-1] + b"4", DamagedFile, "chunk 3 of 3 does not match its checksum"),
        (write(FILE).replace(b"first", b"First"), DamagedFile, "chunk 1 of 3 does not match its checksum"),
        (write(FILE)[:9] + b"\x03" + write(FILE)[10:], DamagedFile, "header does not match its checksum"),
        (changed(5, b"\x07"), DamagedFile, "its header says mode 7, 3 chunks, 640 x 427 pixels, tiles of 512"),
        (changed(8, bytes(4)), DamagedFile, "3 chunks, 0 x 427 pixels"),
        (repaired(write(FILE)[:6] + bytes(1) + write(FILE)[7:]), DamagedFile, "0 chunks"),
        (changed(7, bytes(1)), DamagedFile, "its header says .* tiles of 0;"),
        (changed(7, bytes([17])), DamagedFile, "its header says .* tiles of 1088;"),
        (changed(7, b"\xff"), DamagedFile, "its header says .* tiles of 16320;"),
        (changed(8, b"\xff" * 8), BitdialError, "at most 67108864 pixels, got 4294967295 x 4294967295; allow more"),
        (changed(36, b"\xff" * 4), DamagedFile, r"cut short: expected 4294967360 bytes, got 77"),
        ("text", BitdialError, "must be read from bytes, got str"),
        (None, BitdialError, "must be read from bytes, got NoneType"),
    ],
)
def test_what_is_no_sound_file_is_refused_by_name(data: Any, error: type[BitdialError], text: str) -> None:
    with pytest.raises(BitdialError, match=text) as caught:
        read(data)
    assert type(caught.value) is error


def test_another_model_is_refused_and_the_path_named() -> None:
    with pytest.raises(BitdialError, match=f"photo.bd must be decoded by .* wrote it, {ID}, got model f{{32}}; name"):
        read(write(FILE), model_id="f" * 32, path="photo.bd")


def test_larger_pictures_only_where_the_caller_allows_them() -> None:
    large = replace(FILE, width=8193, height=8192)
    with pytest.raises(BitdialError, match="at most 67108864 pixels, got 8193 x 8192; allow more with max_pixels"):
        read(write(large))
    assert read(write(large), max_pixels=MAX_PIXELS + 8192) == large
    for limit in (0, -1, 1.5, True, None, "9"):
        with pytest.raises(BitdialError, match="max_pixels must be a whole number of at least 1"):
            read(write(FILE), max_pixels=limit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model_id": "0" * 31}, "model_id must be 32 hex digits, got '0000"),
        ({"model_id": ID.upper()}, "model_id must be 32 hex digits"),
        ({"model_id": bytes(16)}, "model_id must be 32 hex digits"),
        ({"mode": "CMYK"}, 'mode must be "RGB" or "L", got \'CMYK\''),
        ({"mode": None}, "got None"),
        ({"width": 0}, "width must be a whole number from 1 to 4294967295, got 0"),
        ({"height": 2**32}, "height must be .* got 4294967296"),
        ({"height": 2.0}, "height must be .* got 2.0"),
        ({"width": True}, "width must be .* got True"),
        ({"symbols_crc": -1}, "symbols_crc must be a whole number from 0"),
        ({"chunks": ()}, "chunks must be a tuple of bytes"),
        ({"chunks": [b"x"]}, "chunks must be a tuple of bytes"),
        ({"chunks": ("x",)}, "chunks must be a tuple of bytes"),
        ({"chunks": (b"",) * 2**8}, "chunks must be a tuple of bytes, .* from 1 to 255"),
        ({"tile": 0}, "tile must be a whole number from 64 to 1024, got 0"),
        ({"tile": 1}, "tile must be .* got 1"),
        ({"tile": 96}, "tile must be a multiple of 64, got 96; 512 is the default"),
        ({"tile": 1088}, "tile must be .* got 1088"),
        ({"tile": None}, "tile must be .* got None"),
    ],
)
def test_what_the_format_has_no_place_for_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(BitdialError, match=text):
        replace(FILE, **change)


def test_only_a_file_is_written() -> None:
    with pytest.raises(BitdialError, match="must be a File, got bytes"):
        write(b"x")  # type: ignore[arg-type]


def compressed() -> tuple[bytes, list[np.ndarray], list[np.ndarray]]:
    generator = np.random.default_rng(3)
    indexes = [generator.integers(0, 8, n).astype(np.uint8) for n in (40, 0, 200)]
    symbols = [np.rint(generator.normal(0, 1 + i.astype(float))).astype(np.int32) for i in indexes]
    chunks = tuple(encode(s, i, TABLES) for s, i in zip(symbols, indexes, strict=True))
    return write(File(ID, 16, 15, "L", chunks, symbols_crc(symbols))), symbols, indexes


def damage(count: int) -> None:
    """Decode files that are flipped, cut, swapped, spliced, and given checksums that fit."""
    pytest.importorskip("constriction")
    data, symbols, indexes = compressed()
    generator = np.random.default_rng(count)
    refused = 0
    for number in range(count):
        broken = bytearray(data)
        for _ in range(1 + number % 3):
            place, length = int(generator.integers(len(broken))), int(generator.integers(1, 9))
            kind = generator.integers(4)
            if kind == 0:
                broken[place] ^= 1 << int(generator.integers(8))
            elif kind == 1:
                del broken[place : place + length]
            elif kind == 2:
                broken[place:place] = generator.bytes(length)
            else:
                broken[place : place + length] = generator.bytes(len(broken[place : place + length]))
            broken = broken or bytearray(b"\0")
        candidate = bytes(broken)
        if number % 2 and len(candidate) > 64 and candidate[6] == 3:
            candidate = with_checksums_that_fit(candidate)
        if candidate == data:
            continue
        try:
            file = read(candidate, model_id=ID)
            file.check([decode(c, i, TABLES) for c, i in zip(file.chunks, indexes, strict=True)])
        except BitdialError:
            refused += 1
        else:  # only what says nothing of the symbols may differ: size, mode
            assert file.chunks == read(data).chunks
    assert refused > count * 0.8
    assert [decode(c, i, TABLES).tolist() for c, i in zip(read(data).chunks, indexes, strict=True)] == [
        s.tolist() for s in symbols
    ]


def with_checksums_that_fit(data: bytes) -> bytes:
    """What an attacker would do, or one damaged at the source: the coder meets garbage that no checksum notices."""
    head, place = bytearray(data[:60]), 64
    for chunk in range(3):
        (length,) = struct.unpack_from("<I", data, 36 + 8 * chunk)
        if chunk == 2:
            length = max(0, len(data) - place)
        head[36 + 8 * chunk : 44 + 8 * chunk] = struct.pack("<II", length, zlib.crc32(data[place : place + length]))
        place += length
    return repaired(bytes(head) + bytes(4) + data[64:])


def test_hundreds_of_damaged_files_are_refused_in_a_sentence() -> None:
    damage(400)


@pytest.mark.slow
def test_thousands_of_damaged_files_are_refused_in_a_sentence() -> None:
    damage(2000)


def test_wrong_symbols_are_noticed() -> None:
    symbols = [np.array([1, -2, 3]), torch.tensor([[4.0], [5.0]])]
    file = replace(FILE, symbols_crc=symbols_crc(symbols))
    assert file.symbols_crc == zlib.crc32(struct.pack("<5i", 1, -2, 3, 4, 5))
    file.check(symbols)
    file.check([np.arange(1, 1), np.array([1, -2], np.int8), np.array([3, 4, 5])])
    for wrong in ([[1, -2, 3]], [[1, -2, 3, 4, 6]], [], [[0]]):
        with pytest.raises(
            DamagedFile, match=r"must have the checksum .* other entropy parameters .* decode on the CPU"
        ):
            file.check(wrong)


def test_model_id_is_of_names_values_dtypes_shapes_and_tables() -> None:
    state = {"b": torch.tensor([1.0, 2.0]), "a": torch.zeros(2, 0, dtype=torch.bfloat16), "c": torch.tensor(3)}
    first = model_id(state, [TABLES])
    assert len(first) == 32
    assert model_id(dict(reversed(state.items())), [TABLES]) == first
    assert model_id({k: v.clone().requires_grad_(k == "b") for k, v in state.items()}, [TABLES]) == first
    others = [
        model_id({**state, "b": torch.tensor([1.0, -2.0])}, [TABLES]),
        model_id({**state, "b": torch.tensor([[1.0, 2.0]])}, [TABLES]),
        model_id({**state, "b": state["b"].view(torch.int32)}, [TABLES]),
        model_id({**state, "d": torch.empty(0)}, [TABLES]),
        model_id(state, [TABLES, TABLES]),
        model_id(state, [scale_tables(scale_levels(9))]),
    ]
    assert len({first, *others}) == 7


@pytest.mark.parametrize(
    ("state", "tables", "text"),
    [
        ({"x": 1}, [], "state must hold dense tensors with data, got int under 'x'"),
        ({"x": torch.eye(2).to_sparse()}, [], "dense tensors with data, got Tensor under 'x'"),
        ({"x": torch.eye(2, device="meta")}, [], "dense tensors with data"),
        ({1: torch.eye(2), "a": torch.eye(2)}, [], "state must be a dictionary of tensors by name, got dict"),
        (None, [], "state must be a dictionary of tensors by name, got NoneType"),
        ([torch.eye(2)], [], "got list"),
        ({}, None, "tables must be a list of Tables, got NoneType"),
        ({}, TABLES, "tables must be a list of Tables, got Tables"),
        ({}, [TABLES.hash], "tables must be a list of Tables, got list"),
    ],
)
def test_what_is_no_model_has_no_id(state: Any, tables: Any, text: str) -> None:
    with pytest.raises(BitdialError, match=text):
        model_id(state, tables)


@pytest.mark.parametrize("symbols", [None, 3, [None], [0.5], ["a"]])
def test_checksums_are_of_whole_numbers(symbols: Any) -> None:
    with pytest.raises(BitdialError, match="symbols must be"):
        symbols_crc(symbols)
    with pytest.raises(BitdialError, match="symbols must be"):
        FILE.check(symbols)
