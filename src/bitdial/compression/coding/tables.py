"""Tables of integer counts, which a coder works from: the same on every machine, kept with the model, and hashed.

Probabilities computed in floating point differ in their last bit between machines, and one such bit ruins a file; so
they are rounded to counts out of 65,536 once, when a model is saved.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitdial.compression.coding import escapes
from bitdial.compression.coding.arrays import check_floating, check_whole, whole_numbers
from bitdial.compression.likelihood import MIN_SCALE, cdf, likelihood
from bitdial.errors import BitdialError

TOTAL = 2**16
"""What the counts of a table add up to."""
MAX_SCALE = 64.0
_TAIL = 1 / TOTAL  # what lies outside of a table: as much as the one count that its escape symbol has in any case
_WIDEST = 4095  # symbols on either side of the middle; a table has to give each one of its 65,536 counts
_HIGHEST = 256.0
_FINEST = 2.0**-16  # thresholds between levels are multiples of it: up to 256 exact in float32, and as integers


@dataclass(frozen=True, eq=False)
class Tables:
    """Some tables, each of a run of whole numbers and one escape symbol, which stands for all other numbers.

    Args:
        counts: of one table after the other; the last count of a table is that of its escape symbol.
        sizes: how many counts each table has.
        lowest: the number that the first count of each table belongs to.

    Raises:
        BitdialError: a table does not add up to 65,536, or has a count below 1; or the three do not go together.
    """

    counts: NDArray[np.int32]
    sizes: NDArray[np.int32]
    lowest: NDArray[np.int32]

    def __post_init__(self) -> None:
        for name in ("counts", "sizes", "lowest"):
            array = whole_numbers(f"{name} of tables", getattr(self, name)).astype(np.int32)
            if array.ndim != 1 or not array.size:
                raise BitdialError(f"{name} of tables must have one dimension and an entry, got shape {array.shape}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        sizes, lowest = self.sizes, self.lowest
        if len(sizes) != len(lowest) or sizes.min() < 2 or sizes.sum(dtype=np.int64) != len(self.counts):
            raise BitdialError(
                f"{len(sizes)} tables must have as many lowest symbols, 2 counts or more each, and all counts; got "
                f"{len(lowest)} lowest symbols, {len(self.counts)} counts for {sizes.sum(dtype=np.int64)} entries"
            )
        sums = np.add.reduceat(self.counts.astype(np.int64), self.starts)
        least = np.minimum.reduceat(self.counts, self.starts)
        bad = np.flatnonzero((sums != TOTAL) | (least < 1) | (np.abs(lowest.astype(np.int64)) > 2**30))
        if bad.size:
            raise BitdialError(
                f"a table must add up to {TOTAL} with no count below 1, and begin within 2**30 of 0; got table "
                f"{bad[0]} with sum {sums[bad[0]]}, least count {least[bad[0]]}, beginning at {lowest[bad[0]]}"
            )

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each table begins in `counts`."""
        return np.cumsum(self.sizes, dtype=np.int64) - self.sizes

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the tables, 64 hex digits: that of their number, then of all three arrays in little endian."""
        arrays = np.array([len(self)]), self.sizes, self.lowest, self.counts
        return hashlib.sha256(b"".join(array.astype("<i4").tobytes() for array in arrays)).hexdigest()


def scale_levels(levels: int = 128, low: float = MIN_SCALE, high: float = MAX_SCALE) -> NDArray[np.float64]:
    """Scales from `low` to `high`, evenly spaced in their logarithm: one table serves each.

    Raises:
        BitdialError: not 2 to 256 levels, or not ``.12 <= low < high <= 256``, or levels too close to tell apart.
    """
    check_whole("levels", levels, 2, 256)
    numbers = all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high))
    if not numbers or not MIN_SCALE <= low < high <= _HIGHEST:
        raise BitdialError(
            f"scales must go from a low of at least {MIN_SCALE:g} to a high of at most {_HIGHEST:g}, got {low!r} "
            f"to {high!r}"
        )
    made = np.exp(np.linspace(math.log(low), math.log(high), levels))
    _thresholds(made)  # refuses levels that are too close
    return made


def scale_indexes(scales: Tensor, levels: NDArray[np.float64]) -> Tensor:
    """The index (uint8) of the level nearest to each scale in logarithm, by comparisons alone.

    Raises:
        BitdialError: a scale is NaN or infinite, or levels are not as `scale_levels` gives them.
    """
    check_floating("scales", scales)
    thresholds, scales = torch.from_numpy(_thresholds(levels)), scales.detach()
    if not bool(scales.isfinite().all()):
        place = (~scales.isfinite()).nonzero()[0].tolist()
        channel = f" in channel {place[-3]}" if len(place) >= 3 else ""
        raise BitdialError(f"scales must be finite, got {scales[tuple(place)].item()}{channel} at {place}; {_DIVERGED}")
    thresholds = thresholds.to(scales.device, torch.promote_types(scales.dtype, torch.float32))
    return torch.bucketize(scales.to(thresholds.dtype), thresholds).to(torch.uint8)


def scale_tables(levels: NDArray[np.float64]) -> Tables:
    """The table of each level, for residuals around 0."""
    _thresholds(levels)
    return channel_tables(torch.from_numpy(np.asarray(levels, np.float64)))


def channel_tables(scales: Tensor, means: Tensor | None = None) -> Tables:
    """One table for each channel of a factorised prior.

    Args:
        scales: of the channels' distributions; below .12 they count as .12, as in `likelihood`.
        means: their middles, where the symbols are rounded as they are; None where ``round(z - mean)`` is coded.

    Raises:
        BitdialError: a scale or mean is not finite, or a scale not above zero; the message names the channel.
    """
    scales = _per_channel("scale", scales)
    means = torch.zeros_like(scales) if means is None else _per_channel("mean", means)
    if len(means) != len(scales):
        raise BitdialError(f"every channel needs a mean and a scale, got {len(means)} means and {len(scales)} scales")
    for name, values, sound in (("scale", scales, scales > 0), ("mean", means, means.abs() <= 2**29)):
        bad = (~(sound & values.isfinite())).nonzero()
        if len(bad):
            what = "above 0" if name == "scale" else f"within {2**29} of 0"
            raise BitdialError(
                f"{name} of channel {int(bad[0])} must be {what}, got {values[bad[0]].item()}; {_DIVERGED}"
            )
    made = [_table(mean, scale) for mean, scale in zip(means, scales.clamp_min(MIN_SCALE), strict=True)]
    return Tables(
        counts=np.concatenate([counts for _, counts in made]),
        sizes=np.array([len(counts) for _, counts in made], np.int32),
        lowest=np.array([lowest for lowest, _ in made], np.int32),
    )


def estimate_bits(symbols: Any, indexes: Any, tables: Tables) -> float:
    """The bits that the coder needs for symbols, each with the table of its index, up to a word or two in the whole.

    Raises:
        BitdialError: as `bitdial.compression.coding.coder.encode`.
    """
    values = whole_numbers("symbols", symbols).ravel().astype(np.int64)
    which = table_numbers(indexes, tables, np.shape(symbols)).astype(np.intp)
    place, escape = values - tables.lowest[which], tables.sizes[which] - 1
    outside = (place < 0) | (place >= escape)
    used = tables.counts[tables.starts[which] + np.where(outside, escape, place)]
    escaped = escapes.remainders(values[outside], tables.lowest[which][outside], escape[outside])
    return float(len(values) * math.log2(TOTAL) - np.log2(used).sum() + escapes.bits(escaped))


def table_numbers(indexes: Any, tables: Tables, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Indexes of tables, flat and as narrow as they fit: a stable argsort of 8 or 16 bits is a radix sort."""
    if not isinstance(tables, Tables):
        raise BitdialError(f"tables must be Tables, got {type(tables).__name__}; make them with scale_tables")
    found = whole_numbers("indexes", indexes)
    if shape is not None and found.shape != shape:
        raise BitdialError(f"indexes must have the shape of the symbols, {shape}, got {found.shape}")
    if found.size and not 0 <= found.min() <= found.max() < len(tables):
        raise BitdialError(
            f"indexes must be from 0 to {len(tables) - 1} for {len(tables)} tables, got {found.min()} to {found.max()}"
        )
    return found.ravel().astype(np.uint8 if len(tables) <= 256 else np.uint16, copy=False)


_DIVERGED = "training may have diverged: load an earlier checkpoint"


def _thresholds(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between neighbours, in the middle of their logarithms."""
    sound = isinstance(levels, np.ndarray) and levels.ndim == 1 and 2 <= len(levels) <= 256 and levels.dtype.kind == "f"
    if not sound or not ((levels >= MIN_SCALE - _FINEST) & (levels <= _HIGHEST + _FINEST)).all():
        raise BitdialError("levels must be an array of 2 to 256 scales from .12 to 256; make it with scale_levels")
    between: NDArray[np.float64] = np.rint(np.sqrt(levels[:-1] * levels[1:]) / _FINEST) * _FINEST
    if (np.diff(between, prepend=levels[0], append=levels[-1]) <= 0).any():
        raise BitdialError(
            f"levels must rise by enough to tell them apart, got {len(levels)} from {levels[0]:g} to {levels[-1]:g}; "
            "use fewer"
        )
    return between


def _per_channel(name: str, values: Tensor) -> Tensor:
    check_floating(f"{name}s", values)
    if not values.numel():
        raise BitdialError(f"{name}s must have one {name} for each channel, got none of shape {tuple(values.shape)}")
    return values.detach().cpu().double().flatten()


def _table(mean: Tensor, scale: Tensor) -> tuple[int, NDArray[np.int32]]:
    """The lowest symbol and the counts of one table."""
    middle = int(mean.round())
    edges = -(torch.arange(1, _WIDEST + 1, dtype=torch.float64) + 0.5) / scale
    half = min(_WIDEST, 1 + int((2 * cdf(edges) > _TAIL).sum()))
    symbols = torch.arange(middle - half, middle + half + 1, dtype=torch.float64)
    inside = likelihood(symbols - mean, scale)
    outside = cdf((symbols[0] - 0.5 - mean) / scale) + cdf((mean - symbols[-1] - 0.5) / scale)
    return middle - half, _whole_counts(torch.cat([inside, outside[None]]).numpy())


def _whole_counts(probabilities: NDArray[np.float64]) -> NDArray[np.int32]:
    """Counts near to the probabilities that add up to 65,536, none below 1, at the least cost in bits."""
    small, found = np.zeros(len(probabilities), bool), -1
    while found < small.sum():  # the rest shares what these, at one count each, leave
        found = small.sum()
        share = (TOTAL - found) / probabilities[~small].sum()
        small |= probabilities * share < 1
    counts = np.where(small, 1, np.maximum(1, np.rint(probabilities * share)))
    while missing := int(TOTAL - counts.sum()):
        move = math.copysign(1, missing)
        cost = -probabilities * np.log(np.maximum(counts + move, 0.5) / counts)
        cost[counts + move < 1] = np.inf
        chosen = np.argsort(cost, kind="stable")[: max(1, abs(missing) // 2)]
        counts[chosen[np.isfinite(cost[chosen])]] += move
    return counts.astype(np.int32)
