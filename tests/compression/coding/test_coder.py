"""The entropy coder: any symbols come back, in about the bytes that were estimated, the same bytes everywhere."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitdial.compression.coding import coder
from bitdial.compression.coding.coder import DamagedStream, Decoder, decode, encode, encode_parts
from bitdial.compression.coding.tables import TOTAL, Tables, channel_tables, estimate_bits, scale_levels, scale_tables
from bitdial.errors import BitdialError

pytest.importorskip("constriction")

TABLES = scale_tables(scale_levels())
INT32 = st.integers(-(2**31), 2**31 - 1)


def drawn(count: int, seed: int = 0, outside: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Symbols that are distributed as their tables say, a part of them replaced by far ones."""
    generator = np.random.default_rng(seed)
    indexes = np.minimum(127, generator.exponential(14, count)).astype(np.uint8)
    scales = scale_levels()[indexes]
    symbols = np.rint(generator.gamma(2 / 3, 1, count) ** (2 / 3) * scales * generator.choice([-1, 1], count))
    far = generator.random(count) < outside
    symbols[far] = generator.integers(-(2**31), 2**31, far.sum())
    return symbols.astype(np.int32), indexes


@st.composite
def any_tables(draw: st.DrawFn) -> Tables:
    """Up to 300 tables of any counts: with more than 256, indexes need 16 bits."""
    pool = []
    for _ in range(draw(st.integers(1, 4))):
        cuts = draw(st.sets(st.integers(1, TOTAL - 1), min_size=1, max_size=40))
        pool.append(np.diff([0, *sorted(cuts), TOTAL]))
    chosen = [pool[i % len(pool)] for i in range(draw(st.sampled_from([1, 2, 5, 300])))]
    lowest = [draw(st.integers(-(2**30), 2**30)) for _ in pool]
    starts = [lowest[i % len(pool)] for i in range(len(chosen))]
    return Tables(np.concatenate(chosen), np.array([len(c) for c in chosen]), np.array(starts))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_symbols_by_any_counts_come_back(data: st.DataObject) -> None:
    tables = data.draw(any_tables())
    indexes = data.draw(st.lists(st.integers(0, len(tables) - 1), max_size=60))
    symbols = [
        data.draw(st.one_of(st.integers(-3, 45).map(lambda s, i=i: int(tables.lowest[i]) + s), INT32)) for i in indexes
    ]
    coded = encode(symbols, indexes, tables)
    back = decode(coded, indexes, tables)
    assert back.dtype == np.int32
    assert back.tolist() == symbols
    assert len(coded) * 8 <= estimate_bits(symbols, indexes, tables) + 64


@settings(deadline=None, max_examples=200)
@given(st.lists(INT32, max_size=20))
@example([2**31 - 1, -(2**31)])
@example([0] * 20)
def test_out_of_range_symbols_of_any_size_come_back(symbols: list[int]) -> None:
    indexes = [0] * len(symbols)
    coded = encode(symbols, indexes, TABLES)
    assert decode(coded, indexes, TABLES).tolist() == symbols
    assert len(coded) * 8 <= estimate_bits(symbols, indexes, TABLES) + 64


@pytest.mark.parametrize("outside", [0.0, 0.001, 0.05, 1.0])
@pytest.mark.parametrize("steps", [1, 11])
def test_bytes_are_within_a_fifth_of_a_percent_of_the_estimate(outside: float, steps: int) -> None:
    symbols, indexes = drawn(60_000, outside=outside)
    parts = list(zip(np.array_split(symbols, steps), np.array_split(indexes, steps), strict=True))
    coded = [encode(s, i, TABLES) for s, i in parts]
    estimates = [estimate_bits(s, i, TABLES) / 8 for s, i in parts]
    assert all(len(data) <= 8 + 1.001 * estimate for data, estimate in zip(coded, estimates, strict=True))
    estimated = sum(estimates)
    assert abs(sum(map(len, coded)) - estimated) <= 0.002 * estimated + 64
    back = [decode(data, i, TABLES) for data, (_, i) in zip(coded, parts, strict=True)]
    assert np.array_equal(np.concatenate(back), symbols)


@pytest.mark.parametrize("outside", [0.0, 0.05])
def test_parts_of_a_stream_come_back_one_after_the_other(outside: float) -> None:
    parts = [drawn(count, seed=count, outside=outside) for count in (300, 0, 1, 2000)]
    data = encode_parts(parts, TABLES)
    assert len(data) <= 8 + 1.001 * sum(estimate_bits(*part, TABLES) for part in parts) / 8
    decoder = Decoder(data)
    for symbols, indexes in parts:
        with pytest.raises(DamagedStream, match="must end with their last symbol"):
            decoder.finish()
        assert np.array_equal(decoder.read(indexes, TABLES), symbols)
    decoder.finish()
    assert encode_parts(parts[:1], TABLES) == encode(*parts[0], TABLES)
    assert encode_parts([], TABLES) == b""


def test_the_estimate_is_the_likelihood_where_tables_fit() -> None:
    from bitdial.compression.likelihood import likelihood

    symbols, indexes = drawn(50_000)
    exact = -likelihood(torch.from_numpy(symbols).double(), torch.from_numpy(scale_levels()[indexes])).log2().sum()
    assert estimate_bits(symbols, indexes, TABLES) == pytest.approx(exact.item(), rel=1e-3)


def test_nothing_codes_to_nothing() -> None:
    for empty in ([], np.zeros((0, 3), np.int32), torch.zeros(2, 0)):
        data = encode(empty, empty, TABLES)
        assert data == b""
        assert decode(data, empty, TABLES).shape == np.shape(empty)
    assert len(encode([3], [60], TABLES)) == 4


def test_shapes_and_kinds_of_arrays_do_not_matter() -> None:
    symbols, indexes = drawn(240)
    expected = encode(symbols, indexes, TABLES)
    shaped = torch.from_numpy(symbols).view(4, 5, 12)
    for values in (shaped, shaped.double(), shaped.long(), shaped.float(), shaped.to(torch.int64).numpy()):
        for which in (indexes.reshape(4, 5, 12), torch.from_numpy(indexes.astype(np.int64)).view(4, 5, 12)):
            assert encode(values, which, TABLES) == expected
    back = decode(expected, indexes.reshape(4, 5, 12), TABLES)
    assert np.array_equal(back, shaped.numpy())
    turned = encode(shaped.permute(2, 0, 1), indexes.reshape(4, 5, 12).transpose(2, 0, 1), TABLES)
    assert np.array_equal(decode(turned, indexes.reshape(4, 5, 12).transpose(2, 0, 1), TABLES), shaped.permute(2, 0, 1))


def test_tables_of_channels() -> None:
    tables = channel_tables(torch.linspace(0.2, 9, 300), torch.linspace(-40, 40, 300))
    indexes = np.arange(300)[:, None].repeat(6, 1)
    symbols = np.rint(np.linspace(-45, 50, 1800)).reshape(300, 6)
    assert np.array_equal(decode(encode(symbols, indexes, tables), indexes, tables), symbols)


def digest() -> str:
    symbols, indexes = drawn(30_000, outside=0.01)
    return hashlib.sha256(encode(symbols, indexes, TABLES)).hexdigest()


def test_the_stream_is_the_one_of_the_format() -> None:
    """Pinned with constriction 0.5.0; another stream would make every file unreadable and needs a new version."""
    tables = Tables(np.array([40000, 20000, 5000, 536, 65535, 1]), np.array([4, 2]), np.array([-1, 0]))
    symbols, indexes = [-1, 0, 1, 0, -1, 70000, 0, -2], [0, 0, 0, 1, 0, 0, 0, 1]
    assert encode(symbols, indexes, tables).hex() == "4927e26cefcb26aa3b010000"


def test_threads_give_the_same_bytes() -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len({digest(), *pool.map(lambda _: digest(), range(8))}) == 1


def test_another_process_with_more_threads_gives_the_same_bytes() -> None:
    code = "from tests.compression.coding.test_coder import digest; print(digest())"
    code = f"import torch; torch.set_num_threads(2); {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


def test_cut_and_flipped_streams_are_noticed_or_stay_within_bounds() -> None:
    """The file's checksums notice the rest; here nothing but DamagedStream may come out, and no symbol but int32."""
    symbols, indexes = drawn(2000, outside=0.01)
    data, generator, noticed = encode(symbols, indexes, TABLES), np.random.default_rng(5), 0
    for _ in range(200):
        broken = bytearray(data)
        broken[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
        if generator.random() < 0.3:
            del broken[: int(generator.integers(len(data)))]
        try:
            back = decode(bytes(broken), indexes, TABLES)
        except DamagedStream:
            noticed += 1
        else:
            assert back.shape == symbols.shape
            assert not np.array_equal(back, symbols)
    assert noticed > 150


@pytest.mark.parametrize("change", ["indexes", "tables", "fewer", "more"])
def test_another_table_than_the_encoders_is_noticed(change: str) -> None:
    symbols, indexes = drawn(5000)
    data, tables = encode(symbols, indexes, TABLES), TABLES
    if change == "indexes":
        indexes = indexes.copy()
        indexes[17] ^= 1
    elif change == "tables":
        tables = scale_tables(scale_levels(128, 0.12, 63))
    else:
        indexes = indexes[:-1] if change == "fewer" else np.append(indexes, indexes[:50])
    with pytest.raises(DamagedStream, match=r"must end with their last symbol.* other tables or indexes"):
        decode(data, indexes, tables)


@pytest.mark.parametrize(
    ("symbols", "indexes", "text"),
    [
        ([0.5], [0], r"symbols must be whole numbers of 32 bits, got 0.5 at \[0\]; round them first"),
        ([[0, math.nan]], [[0, 0]], r"got nan at \[0, 1\]"),
        ([math.inf], [0], "got inf"),
        ([2**31], [0], "got 2147483648"),
        (0.5, 0, r"got 0.5 at \[\]"),
        (np.array([2**31], np.float32), [0], "got 2147483648"),
        (np.array([np.inf], np.float16), [0], "got inf"),
        ([-(2**40)], [0], "got -1099511627776"),
        ([2**70], [0], "symbols must be whole numbers, got object"),
        (["a"], [0], "symbols must be whole numbers, got <U1"),
        (None, [0], "symbols must be whole numbers, got object"),
        ([True], [0], "symbols must be whole numbers, got bool"),
        ([1j], [0], "symbols must be whole numbers, got complex128"),
        ([[1], [1, 2]], [0], "symbols must be an array of whole numbers, got list"),
        (torch.zeros(1, device="meta"), [0], "symbols must be an array of whole numbers, got Tensor"),
        ([0], [128], "indexes must be from 0 to 127 for 128 tables, got 128 to 128"),
        ([0], [-1], "got -1 to -1"),
        ([0], [0.5], "indexes must be whole numbers of 32 bits, got 0.5"),
        ([0], [300], "got 300 to 300"),
        ([0, 0], [0], r"indexes must have the shape of the symbols, \(2,\), got \(1,\)"),
        ([0, 0], [[0, 0]], r"\(2,\), got \(1, 2\)"),
    ],
)
def test_what_cannot_be_coded_is_refused(symbols: Any, indexes: Any, text: str) -> None:
    with pytest.raises(BitdialError, match=text):
        encode(symbols, indexes, TABLES)
    with pytest.raises(BitdialError, match=text):
        estimate_bits(symbols, indexes, TABLES)


@pytest.mark.parametrize(
    ("data", "indexes", "tables", "text"),
    [
        ("text", [0], TABLES, "coded data must be bytes, got str"),
        (None, [0], TABLES, "coded data must be bytes, got NoneType"),
        ([1, 2], [0], TABLES, "coded data must be bytes, got list"),
        (b"abc", [0], TABLES, "whole words of 4 bytes, .* got 3 bytes"),
        (b"abcde", [0], TABLES, "got 5 bytes"),
        (b"\0\0\0\0", [0], TABLES, "the last of them not 0, got 4 bytes"),
        (b"abcd\0\0\0\0", [0], TABLES, "the last of them not 0"),
        (b"abcd", [], TABLES, "must end with their last symbol"),
        (b"abcd", [200], TABLES, "indexes must be from 0 to 127"),
        (b"abcd", [0], "tables", "tables must be Tables, got str; make them with scale_tables"),
        (b"abcd", [0], None, "tables must be Tables, got NoneType"),
        (b"\xff" * 400, [127], TABLES, "other tables or indexes"),
    ],
)
def test_what_cannot_be_decoded_is_refused(data: Any, indexes: Any, tables: Any, text: str) -> None:
    with pytest.raises(BitdialError, match=text):
        decode(data, indexes, tables)


def test_numbers_beyond_32_bits_are_refused() -> None:
    """A length of 33 bits stands in no sound stream but for the farthest numbers."""
    import constriction

    from bitdial.compression.coding import escapes

    stream = constriction.stream.stack.AnsCoder()
    escapes.push(stream, constriction.stream.model, np.array([2**33 - 4], np.int64))
    stream.encode_reverse(np.array([3], np.int32), coder._models(TABLES)[0])
    with pytest.raises(DamagedStream, match="more than 32 bits"):
        decode(stream.get_compressed().astype("<u4").tobytes(), [0], TABLES)


def test_without_constriction_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    for call in (lambda: encode([0], [0], TABLES), lambda: decode(b"", [0], TABLES)):
        with pytest.raises(
            BitdialError, match=r"needs the package constriction; run: pip install 'bitdial\[compression"
        ):
            call()
    assert estimate_bits([0], [0], TABLES) > 0
