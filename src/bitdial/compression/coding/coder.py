"""Entropy coding with asymmetric numeral systems (ANS): symbols to bytes and back, by tables of counts.

Symbols of one table are coded in one call. ANS is a stack: the encoder works backwards, the decoder forwards.
Duda, "Asymmetric numeral systems" (arXiv 1311.2540); the coder is that of constriction (Bamler, arXiv 2201.01741).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitdial.compression.coding import escapes
from bitdial.compression.coding.arrays import whole_numbers
from bitdial.compression.coding.tables import TOTAL, Tables, table_numbers
from bitdial.errors import BitdialError


class DamagedStream(BitdialError):  # noqa: N818  (named for what it is, not for being raised)
    """Coded bytes that cannot be what the encoder wrote with these tables and indexes."""


def encode(symbols: Any, indexes: Any, tables: Tables) -> bytes:
    """Code whole numbers of any size within 32 bits, each with the table of its index; the same bytes everywhere.

    Args:
        symbols: array or tensor of any shape.
        indexes: of the same shape: which table.
        tables: what the symbols are coded by.

    Returns:
        Words of 32 bits, little endian: at most 8 bytes and .1% more than `estimate_bits` says.

    Raises:
        BitdialError: symbols are not whole, no tables of such indexes, different shapes, or constriction is missing.
    """
    return encode_parts([(symbols, indexes)], tables)


def encode_parts(parts: Sequence[tuple[Any, Any]], tables: Tables) -> bytes:
    """Code several arrays of symbols into one stream, of which `Decoder` gives one after the other.

    Args:
        parts: symbols and indexes of each, as for `encode`.
        tables: what all are coded by.

    Raises:
        BitdialError: as `encode`.
    """
    coder = constriction().stack.AnsCoder()
    for symbols, indexes in reversed(parts):
        _push(coder, symbols, indexes, tables)
    return bytes(coder.get_compressed().astype("<u4").tobytes())


def _push(coder: Any, symbols: Any, indexes: Any, tables: Tables) -> None:
    values = whole_numbers("symbols", symbols)
    which = table_numbers(indexes, tables, values.shape)
    order, numbers = _grouped(which, tables)
    lowest, escape = np.repeat(tables.lowest, numbers), np.repeat(tables.sizes - 1, numbers)
    sorted_values = values.ravel()[order].astype(np.int32, copy=False)
    # Differences below 0 wrap to large ones: one comparison finds what is outside on either side.
    place = (sorted_values - lowest).view(np.uint32)
    outside = place >= escape.view(np.uint32)
    if outside.any():
        far = escapes.remainders(sorted_values[outside], lowest[outside], escape[outside])
        escapes.push(coder, constriction().model, far)
    coded = np.minimum(place, escape.view(np.uint32)).view(np.int32)
    models, stop = _models(tables), len(coded)
    for table in np.flatnonzero(numbers)[::-1].tolist():
        start = stop - int(numbers[table])
        coder.encode_reverse(coded[start:stop], models[table])
        stop = start


def decode(data: bytes, indexes: Any, tables: Tables) -> NDArray[np.int32]:
    """The symbols that `encode` was given with these indexes and tables, in the shape of the indexes.

    A stream that does not end with its last symbol is refused. That notices most damage, and indexes or tables that
    differ from the encoder's, but not all: a file keeps checksums besides.

    Raises:
        DamagedStream: the bytes cannot be what `encode` wrote.
        BitdialError: as `encode`.
    """
    decoder = Decoder(data)
    symbols = decoder.read(indexes, tables)
    decoder.finish()
    return symbols


class Decoder:
    """Takes from a stream of `encode_parts` the symbols of one part after the other.

    Raises:
        DamagedStream: the bytes cannot be of such a stream.
        BitdialError: they are no bytes, or constriction is missing.
    """

    def __init__(self, data: bytes) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise BitdialError(f"coded data must be bytes, got {type(data).__name__}")
        if len(data) % 4 or (len(data) and not any(data[-4:])):
            raise DamagedStream(
                f"coded data must be whole words of 4 bytes, the last of them not 0, got {len(data)} bytes; "
                "decode what was encoded, unchanged"
            )
        self._coder = constriction().stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def read(self, indexes: Any, tables: Tables) -> NDArray[np.int32]:
        """The next symbols, in the shape of the indexes; as `decode`, but for what follows after them."""
        which = table_numbers(indexes, tables)
        order, numbers = _grouped(which, tables)
        models, coded, start = _models(tables), np.empty(len(which), np.int32), 0
        for table in np.flatnonzero(numbers).tolist():
            stop = start + int(numbers[table])
            coded[start:stop] = self._coder.decode(models[table], stop - start)
            start = stop
        lowest, escape = np.repeat(tables.lowest, numbers), np.repeat(tables.sizes - 1, numbers)
        outside = np.flatnonzero(coded == escape)
        coded += lowest
        if outside.size:
            far = escapes.pop(self._coder, constriction().model, outside.size)
            values = escapes.values_at(far, lowest[outside], escape[outside])
            coded[outside] = values
            if (coded[outside] != values).any():
                raise DamagedStream(f"coded data hold numbers of more than 32 bits; {_DIFFERENT}")
        symbols = np.empty_like(coded)
        symbols[order] = coded
        return symbols.reshape(np.shape(indexes))

    def finish(self) -> None:
        """Refuse a stream that holds more than was read."""
        if not self._coder.is_empty():
            raise DamagedStream(f"coded data must end with their last symbol, got more; {_DIFFERENT}")


_DIFFERENT = "they are damaged, or were coded with other tables or indexes"


def _grouped(which: NDArray[Any], tables: Tables) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order that brings the symbols of each table together, and how many each has."""
    return np.argsort(which, kind="stable"), np.bincount(which, minlength=len(tables))


@lru_cache(maxsize=8)
def _models(tables: Tables) -> list[Any]:
    """The tables as constriction has them.

    ``perfect=False`` and float32 belong to the file format: other settings give other streams. Counts over 65,536 are
    exact in float32.
    """
    ends = tables.starts + tables.sizes
    parts = [tables.counts[start:end] for start, end in zip(tables.starts.tolist(), ends.tolist(), strict=True)]
    model = constriction().model.Categorical
    return [model(part.astype(np.float32) / np.float32(TOTAL), perfect=False) for part in parts]


def constriction() -> Any:
    """The coders of constriction (`BitdialError`: it is not installed)."""
    try:
        return importlib.import_module("constriction").stream
    except ImportError as error:
        raise BitdialError(
            "entropy coding needs the package constriction; run: pip install 'bitdial[compression]'"
        ) from error
