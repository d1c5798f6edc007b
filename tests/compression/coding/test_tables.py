"""Tables of counts: their sums, levels, escape symbols, hash, cost, and what is refused."""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitdial.compression.coding.tables import (
    TOTAL,
    Tables,
    channel_tables,
    estimate_bits,
    scale_indexes,
    scale_levels,
    scale_tables,
)
from bitdial.compression.likelihood import likelihood
from bitdial.errors import BitdialError

LEVELS = scale_levels()
TABLES = scale_tables(LEVELS)
SMALL = Tables(np.array([65000, 500, 36, 1, 65535]), np.array([3, 2]), np.array([-1, 4]))


def counts_of(tables: Tables, table: int) -> np.ndarray:
    start = int(tables.starts[table])
    return tables.counts[start : start + int(tables.sizes[table])]


def test_levels_are_even_in_their_logarithm() -> None:
    assert len(LEVELS) == 128
    assert LEVELS[[0, -1]].tolist() == pytest.approx([0.12, 64])
    assert np.allclose(LEVELS[1:] / LEVELS[:-1], (64 / 0.12) ** (1 / 127))
    assert scale_levels(3, 1, 4).tolist() == pytest.approx([1, 2, 4])


@settings(deadline=None, max_examples=100)
@given(st.floats(-5, 200), st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]))
def test_index_is_that_of_the_nearest_level(scale: float, dtype: torch.dtype) -> None:
    given_scale = torch.tensor([scale], dtype=dtype)
    (index,) = scale_indexes(given_scale, LEVELS).tolist()
    distances = np.abs(np.log(LEVELS / max(given_scale.item(), 0.01)))
    assert distances[index] <= distances.min() + 2e-4  # thresholds are rounded to multiples of 2**-16


def test_thresholds_are_exact_in_single_precision() -> None:
    """A scale that lies on a threshold, or next to it, has one index in either precision, up to the highest scale."""
    for levels in (LEVELS, scale_levels(256, 0.12, 256)):
        thresholds = torch.from_numpy(np.rint(np.sqrt(levels[1:] * levels[:-1]) * 65536) / 65536)
        assert torch.equal(thresholds, thresholds.float().double())
        for scales in (thresholds.float(), *(thresholds.float().nextafter(torch.tensor(end)) for end in (0.0, 999.0))):
            assert torch.equal(scale_indexes(scales, levels), scale_indexes(scales.double(), levels))


def test_single_and_double_precision_give_the_same_indexes() -> None:
    scales = torch.linspace(math.log(0.1), math.log(70), 20_000).exp()
    found = scale_indexes(scales, LEVELS)
    assert found.dtype == torch.uint8
    assert torch.equal(found, scale_indexes(scales.double(), LEVELS))
    assert found.unique().tolist() == list(range(128))
    assert torch.equal(scale_indexes(torch.from_numpy(LEVELS), LEVELS), torch.arange(128, dtype=torch.uint8))


@pytest.mark.parametrize("tables", [TABLES, SMALL, channel_tables(torch.tensor([0.01, 0.12, 3.3, 900, 1e6]))])
def test_counts_add_up_and_none_is_below_one(tables: Tables) -> None:
    for table in range(len(tables)):
        counts = counts_of(tables, table)
        assert counts.sum() == TOTAL
        assert counts.min() >= 1


@pytest.mark.parametrize("table", [0, 31, 63, 95, 127])
def test_a_table_costs_next_to_nothing_beside_its_distribution(table: int) -> None:
    scale, counts = torch.tensor(LEVELS[table]), counts_of(TABLES, table)
    half = len(counts) // 2 - 1
    assert TABLES.lowest[table] == -half
    exact = likelihood(torch.arange(-half, half + 1, dtype=torch.float64), scale).numpy()
    entropy = -(exact * np.log2(exact)).sum()
    table_bits = -(exact * np.log2(counts[:-1] / TOTAL)).sum()
    assert table_bits <= entropy * 1.0003 + 3e-5
    assert 1 - exact.sum() <= 2 / TOTAL
    assert np.abs(counts[:-1] - exact * TOTAL).max() <= 1 + 0.003 * counts.max()


def test_narrow_and_wide_ends() -> None:
    assert counts_of(TABLES, 0).tolist() == [2, 65531, 2, 1]
    widest = channel_tables(torch.tensor([1e6]))
    assert widest.sizes.tolist() == [2 * 4095 + 2]
    assert counts_of(widest, 0)[-1] > 50_000  # most of it lies outside: it is coded by escapes, not refused


def test_channels_with_means_are_tables_around_them() -> None:
    tables = channel_tables(torch.tensor([2.0, 2.0, 2.0]), torch.tensor([0.0, 7.0, -3.4]))
    assert np.array_equal(counts_of(tables, 0), counts_of(tables, 1))
    assert tables.lowest[1] - tables.lowest[0] == 7
    lean = counts_of(tables, 2)[:-1]
    assert lean.argmax() + tables.lowest[2] == -3
    assert lean[lean.argmax() - 1] > lean[lean.argmax() + 1]  # -4 is nearer to -3.4 than -2 is
    assert np.array_equal(counts_of(channel_tables(torch.tensor([2.0])), 0), counts_of(tables, 0))


def test_hash_is_of_every_array_and_kept() -> None:
    raw = [2, 3, 2, -1, 4, 65000, 500, 36, 1, 65535]
    assert SMALL.hash == hashlib.sha256(struct.pack("<10i", *raw)).hexdigest()
    moved = Tables(SMALL.counts, SMALL.sizes, np.array([-1, 5]))
    other = Tables(np.array([65001, 499, 36, 1, 65535]), SMALL.sizes, SMALL.lowest)
    assert len({SMALL.hash, moved.hash, other.hash}) == 3
    again = Tables(*(torch.from_numpy(np.array(x)) for x in (SMALL.counts, SMALL.sizes, SMALL.lowest)))
    assert again.hash == SMALL.hash


def test_tables_cannot_be_written_and_do_not_follow_their_source() -> None:
    source = np.array([65535, 1])
    tables = Tables(source, np.array([2]), np.array([0]))
    source[0] = 7
    assert tables.counts.tolist() == [65535, 1]
    with pytest.raises(ValueError, match="read-only"):
        tables.counts[0] = 3


def test_estimate_is_the_sum_of_what_the_counts_say() -> None:
    by_hand = -math.log2(65000 / TOTAL) - math.log2(500 / TOTAL) - math.log2(1 / TOTAL)
    assert estimate_bits([-1, 0, 4], [0, 0, 1], SMALL) == pytest.approx(by_hand, rel=1e-12)
    assert estimate_bits([], [], SMALL) == 0
    # 7 is six beyond the table of -1 and 0: the 12th remainder, 3 bits of 13 after the leading one; 4 for their number.
    escaped = -math.log2(36 / TOTAL) + 4 + 3
    assert estimate_bits([7], [0], SMALL) == pytest.approx(escaped, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: scale_levels(1), "levels must be a whole number from 2 to 256, got 1"),
        (lambda: scale_levels(257), "levels must be .* got 257"),
        (lambda: scale_levels(8.0), "levels must be .* got 8.0"),  # type: ignore[arg-type]
        (lambda: scale_levels(True), "levels must be .* got True"),
        (lambda: scale_levels(8, 0.0), "low of at least 0.12 to a high of at most 256, got 0.0 to 64.0"),
        (lambda: scale_levels(8, 5, 5), "got 5 to 5"),
        (lambda: scale_levels(8, 0.12, math.inf), "got 0.12 to inf"),
        (lambda: scale_levels(8, math.nan), "got nan"),
        (lambda: scale_levels(8, 0.12, 300), "got 0.12 to 300"),
        (lambda: scale_levels(8, "1"), "got '1'"),  # type: ignore[arg-type]
        (lambda: scale_levels(256, 0.12, 0.121), "must rise by enough to tell them apart, got 256 from 0.12 to 0.121"),
        (lambda: scale_indexes(torch.tensor([1, 2]), LEVELS), "scales must be a tensor of floating.* got torch.int64"),
        (lambda: scale_indexes([1.0], LEVELS), "scales must be a tensor .* got list"),  # type: ignore[arg-type]
        (lambda: scale_indexes(torch.ones(1), [1.0, 2.0]), "levels must be an array of 2 to 256 scales"),  # type: ignore[arg-type]
        (lambda: scale_indexes(torch.ones(1), np.array([1, 2])), "levels must be an array"),
        (lambda: scale_indexes(torch.ones(1), np.array([3.0, 2.0])), "must rise by enough .* got 2 from 3 to 2"),
        (lambda: scale_indexes(torch.ones(1), np.array([1.0, math.nan])), "levels must be an array"),
        (lambda: scale_tables(np.array([0.0, 1.0])), "levels must be an array"),
        (lambda: scale_tables(np.ones((2, 2))), "levels must be an array"),
        (lambda: scale_tables(None), "levels must be an array"),  # type: ignore[arg-type]
        (lambda: channel_tables(torch.tensor([1, 2])), "scales must be a tensor of floating.* got torch.int64"),
        (lambda: channel_tables(torch.empty(0)), r"one scale for each channel, got none of shape \(0,\)"),
        (lambda: channel_tables(2.0), "got float"),  # type: ignore[arg-type]
        (lambda: channel_tables(torch.tensor([1.0, 0.0])), "scale of channel 1 must be above 0, got 0.0; training"),
        (lambda: channel_tables(torch.tensor([1.0, 2.0, -0.5])), "scale of channel 2 must be above 0, got -0.5"),
        (lambda: channel_tables(torch.tensor([math.nan])), "scale of channel 0 must be above 0, got nan"),
        (lambda: channel_tables(torch.tensor([1, math.inf])), "scale of channel 1 must be above 0, got inf"),
        (lambda: channel_tables(torch.ones(3), torch.tensor([0, 0, math.nan])), "mean of channel 2 .* got nan"),
        (lambda: channel_tables(torch.ones(1), torch.tensor([1e12])), "mean of channel 0 must be within 536870912"),
        (lambda: channel_tables(torch.ones(3), torch.zeros(2)), "got 2 means and 3 scales"),
    ],
)
def test_what_tables_cannot_be_made_of_is_refused(make: Any, text: str) -> None:
    with pytest.raises(BitdialError, match=text):
        make()


@pytest.mark.parametrize(("value", "name"), [(math.nan, "nan"), (math.inf, "inf")])
def test_a_scale_that_is_not_finite_is_refused_by_its_channel(value: float, name: str) -> None:
    scales = torch.ones(1, 5, 2, 2)
    scales[0, 3, 1, 0] = value
    with pytest.raises(BitdialError, match=f"got {name} in channel 3 at \\[0, 3, 1, 0\\]; training may have diverged"):
        scale_indexes(scales, LEVELS)


@pytest.mark.parametrize(
    ("counts", "sizes", "lowest", "text"),
    [
        ([65535, 2], [2], [0], "must add up to 65536 .* table 0 with sum 65537"),
        ([65536, 0], [2], [0], "table 0 with sum 65536, least count 0"),
        ([65537, -1], [2], [0], "least count -1"),
        ([65535, 1, 65535, 2], [2, 2], [0, 0], "table 1 with sum 65537"),
        ([65536], [1], [0], "2 counts or more each"),
        ([65535, 1], [3], [0], "2 counts for 3 entries"),
        ([65535, 1], [2], [0, 0], "1 tables must have as many lowest symbols"),
        ([65535, 1], [2], [2**30 + 1], "beginning at 1073741825"),
        ([], [2], [0], "counts of tables must have one dimension and an entry"),
        ([[65535, 1]], [2], [0], r"counts of tables must have one dimension .* \(1, 2\)"),
        ([65535.5, 0.5], [2], [0], "counts of tables must be whole numbers of 32 bits, got 65535.5"),
        ([65535, 1], ["a"], [0], "sizes of tables must be whole numbers, got"),
        ([65535, 1], [2], None, "lowest of tables must be whole numbers, got object"),
        ([65535, 1], [2], [2**40], "lowest of tables must be .* 32 bits, got 1099511627776"),
    ],
)
def test_tables_that_a_coder_would_choke_on_are_refused(counts: Any, sizes: Any, lowest: Any, text: str) -> None:
    with pytest.raises(BitdialError, match=text):
        Tables(counts, sizes, lowest)
