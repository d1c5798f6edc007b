"""How numbers outside of a table are coded: by an exponential Golomb code, after the symbols that call for it.

A number that lies r steps beyond its table (0 the nearest; numbers above and below take turns) is written as the
length k of r + 1 without its leading one, and the k bits themselves.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTHS = 34  # the farthest numbers of 32 bits lie less than 2**34 steps away
# Every further bit is half as probable, as in the original's unary code, down to one count of 65,536.
_COUNTS = np.maximum(1, 2 ** np.maximum(0, 15 - np.arange(_LENGTHS)))
_COUNTS[0] -= _COUNTS.sum() - 2**16
_PIECE = 16  # bits that a uniform model takes at once


def remainders(values: NDArray[Any], lowest: NDArray[Any], entries: NDArray[Any]) -> NDArray[np.int64]:
    """How far outside of `entries` numbers from `lowest` on the values lie: 0, 2, 4 ... above and 1, 3, 5 ... below."""
    place = values.astype(np.int64) - lowest
    found: NDArray[np.int64] = np.where(place < 0, -2 * place - 1, 2 * (place - entries))
    return found


def values_at(remainder: NDArray[np.int64], lowest: NDArray[Any], entries: NDArray[Any]) -> NDArray[np.int64]:
    """The values that `remainders` were taken of."""
    steps = remainder >> 1
    found: NDArray[np.int64] = np.where(remainder & 1, lowest - 1 - steps, lowest.astype(np.int64) + entries + steps)
    return found


def bits(remainder: NDArray[np.int64]) -> float:
    """What they cost."""
    lengths = _lengths(remainder)
    return float(len(lengths) * 16 - np.log2(_COUNTS[lengths]).sum() + lengths.sum())


def push(coder: Any, models: Any, remainder: NDArray[np.int64]) -> None:
    """Write remainders onto an ANS coder of constriction; `models` is ``constriction.stream.model``."""
    lengths = _lengths(remainder)
    for piece, sizes in reversed(_pieces(lengths)):
        digits = ((remainder + 1) >> (_PIECE * piece)) & (sizes - 1)
        coder.encode_reverse(digits[sizes > 1].astype(np.int32), models.Uniform(), sizes[sizes > 1].astype(np.int32))
    coder.encode_reverse(lengths.astype(np.int32), _length_model(models))


def pop(coder: Any, models: Any, count: int) -> NDArray[np.int64]:
    """Read remainders that `push` wrote."""
    lengths: NDArray[np.int64] = coder.decode(_length_model(models), count).astype(np.int64)
    found: NDArray[np.int64] = np.int64(1) << lengths
    for piece, sizes in _pieces(lengths):
        digits = coder.decode(models.Uniform(), sizes[sizes > 1].astype(np.int32)).astype(np.int64)
        found[sizes > 1] += digits << (_PIECE * piece)
    return found - 1


def _lengths(remainder: NDArray[np.int64]) -> NDArray[np.int64]:
    exponents: NDArray[np.int64] = np.frexp((remainder + 1).astype(np.float64))[1].astype(np.int64)
    return exponents - 1  # exact: fewer than 53 bits


def _pieces(lengths: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """The number of each piece of 16 bits with something in it, and how many values it can have in each remainder."""
    longest = int(lengths.max(initial=0))
    return [(i, np.int64(1) << np.clip(lengths - _PIECE * i, 0, _PIECE)) for i in range(-(-longest // _PIECE))]


@cache
def _length_model(models: Any) -> Any:
    return models.Categorical((_COUNTS / 2**16).astype(np.float32), perfect=False)
