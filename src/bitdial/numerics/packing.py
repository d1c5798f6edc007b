"""Small whole numbers in few bits: five trits a byte, two bits a trit, or k bits a code. Exact both ways.

Packing takes codes of any shape in row-major order and gives bytes; unpacking takes the shape, since the bytes do not
know it. What could not have come from packing (a byte that stands for no five trits, padding that is not zero) is
refused, so that one sequence of codes has one packed form.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bitdial.errors import BitdialError

TRITS_PER_BYTE = 5
_BYTES_OF_TRITS = 3**TRITS_PER_BYTE
_PLACES = [3**place for place in range(TRITS_PER_BYTE)]
_TRITS = (torch.arange(_BYTES_OF_TRITS)[:, None] // torch.tensor(_PLACES) % 3 - 1).to(torch.int8)
"""The five trits of each byte, ``(243, 5)``."""


class DamagedPacking(BitdialError):  # noqa: N818  (named for what it is, not for being raised)
    """Bytes that no packing gives."""


def packed_length(count: int, bits: int | None = None) -> int:
    """Bytes that `count` codes take: at k bits each, or, for None, trits at five a byte."""
    return -(-count // TRITS_PER_BYTE) if bits is None else -(-count * bits // 8)


def pack_trits(codes: Tensor) -> Tensor:
    """Pack -1, 0, 1 at five a byte: ``sum((code_i + 1) * 3**i)``; the last byte is filled up with zeros.

    Args:
        codes: any shape, device and numeric dtype.

    Returns:
        uint8, ``(ceil(n / 5),)``, each at most 242: 1.6 bits a code.

    Raises:
        BitdialError: a code that is none of the three.
    """
    rows = _digits(codes, TRITS_PER_BYTE).view(-1, TRITS_PER_BYTE)
    return (rows * rows.new_tensor(_PLACES)).sum(1, dtype=torch.uint8)


def unpack_trits(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """What `pack_trits` packed: int8 codes of the given shape, on the device of `packed`.

    Raises:
        DamagedPacking: a byte above 242, or a last byte that is not filled up with zeros.
        BitdialError: `packed` is not a row of bytes of the length that the shape needs.
    """
    count = _checked(packed, shape, None)
    if packed.numel() and int(packed.max()) >= _BYTES_OF_TRITS:
        at = int((packed >= _BYTES_OF_TRITS).nonzero()[0])
        raise DamagedPacking(
            f"packed trits must be bytes up to {_BYTES_OF_TRITS - 1}, got {int(packed[at])} at byte {at}; the data are "
            "damaged, or packed in another way"
        )
    return _without_padding(_TRITS.to(packed.device).index_select(0, packed.int()).view(-1), count, shape)


def pack_trits_2bit(codes: Tensor) -> Tensor:
    """Pack -1, 0, 1 at four a byte: ``code + 1`` in two bits, the first in the lowest; the rest is filled with zeros.

    Args, Returns, Raises: as `pack_trits`, with ``(ceil(n / 4),)`` bytes.
    """
    return pack_bits(_digits(codes, 4), 2)


def unpack_trits_2bit(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """What `pack_trits_2bit` packed: int8 codes of the given shape.

    Raises:
        DamagedPacking: a pair of bits that stands for no trit, or padding that is not zero.
        BitdialError: `packed` is not a row of bytes of the length that the shape needs.
    """
    count = _checked(packed, shape, 2)
    digits = unpack_bits(packed, 2, (packed.numel() * 4,))
    if digits.numel() and int(digits.max()) > 2:
        at = int((digits > 2).nonzero()[0])
        raise DamagedPacking(
            f"packed trits must be pairs of bits up to 2, got 3 in byte {at // 4}; the data are damaged, or packed in "
            "another way"
        )
    return _without_padding(digits.to(torch.int8) - 1, count, shape)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack whole numbers from 0 to ``2**bits - 1``, the first in the lowest bits; the last byte is filled up with 0.

    Args:
        codes: any shape, device and integer dtype.
        bits: 1 to 8.

    Returns:
        uint8, ``(ceil(n * bits / 8),)``.

    Raises:
        BitdialError: a code that does not fit, or another width.
    """
    _check_width(bits)
    _check_numbers(codes)
    flat = codes.reshape(-1)
    if flat.is_floating_point() or (flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < 2**bits):
        raise BitdialError(
            f"codes for {bits} bits must be whole numbers from 0 to {2**bits - 1}, got {_range_of(flat)}; "
            "quantize before packing"
        )
    return _regroup(flat.to(torch.uint8), bits, 8)


def unpack_bits(packed: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    """What `pack_bits` packed: uint8 codes of the given shape, on the device of `packed`.

    Raises:
        DamagedPacking: padding that is not 0.
        BitdialError: `packed` is not a row of bytes of the length that the shape needs, or another width.
    """
    _check_width(bits)
    count = _checked(packed, shape, bits)
    return _without_padding(_regroup(packed, 8, bits), count, shape)


def _regroup(numbers: Tensor, before: int, after: int) -> Tensor:
    """The bits of uint8 numbers of `before` bits, lowest first, as numbers of `after` bits; filled up with 0."""
    if before == after:
        return numbers
    places = torch.arange(8, dtype=torch.uint8, device=numbers.device)
    bits = ((numbers[:, None] >> places[:before]) & 1).view(-1)
    rows = torch.cat([bits, bits.new_zeros(-bits.numel() % after)]).view(-1, after)
    return (rows << places[:after]).sum(1, dtype=torch.uint8)


def _digits(codes: Tensor, multiple: int) -> Tensor:
    """Trits as the digits 0, 1, 2, uint8, flat, filled up to a multiple with the digit of zero."""
    _check_numbers(codes)
    flat = codes.reshape(-1)
    positive, negative = flat == 1, flat == -1
    if not bool((positive | negative | (flat == 0)).all()):
        raise BitdialError(f"trits must be -1, 0 or 1, got {_range_of(flat)}; pass the signs of ternary weights")
    digits = (positive.to(torch.int8) - negative.to(torch.int8) + 1).to(torch.uint8)
    return torch.cat([digits, digits.new_ones(-digits.numel() % multiple)])


def _check_numbers(codes: object) -> None:
    if not isinstance(codes, Tensor) or codes.dtype == torch.bool or codes.is_complex():
        got = str(codes.dtype) if isinstance(codes, Tensor) else type(codes).__name__
        raise BitdialError(f"codes must be a tensor of real numbers, got {got}; pass the codes of a weight")


def _check_width(bits: object) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise BitdialError(f"bits a code must be a whole number from 1 to 8, got {bits!r}")


def _checked(packed: object, shape: Any, bits: int | None) -> int:
    """Number of codes, after a look at the arguments."""
    if not isinstance(packed, Tensor) or packed.dtype != torch.uint8 or packed.dim() != 1:
        got = f"{packed.dtype} of shape {tuple(packed.shape)}" if isinstance(packed, Tensor) else type(packed).__name__
        raise BitdialError(f"packed codes must be a uint8 tensor of one dimension, got {got}")
    numbers = isinstance(shape, Sequence) and not isinstance(shape, str | bytes)
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in shape):
        raise BitdialError(f"shape must be a sequence of whole numbers of at least 0, got {reprlib.repr(shape)}")
    count: int = math.prod(shape)
    needed = packed_length(count, bits)
    if packed.numel() != needed:
        raise BitdialError(
            f"{count} codes of shape {tuple(shape)} must be packed in {needed} bytes, got {packed.numel()}; "
            "give the shape and the width that they were packed with"
        )
    return count


def _without_padding(codes: Tensor, count: int, shape: Sequence[int]) -> Tensor:
    """The first `count` codes in their shape."""
    if bool(codes[count:].any()):
        raise DamagedPacking(
            "packed codes must be filled up with zeros, got other bits at the end; the data are damaged"
        )
    return codes[:count].view(tuple(shape))


def _range_of(flat: Tensor) -> str:
    if flat.numel() == 0:
        return f"none, of dtype {flat.dtype}"
    return f"{flat.dtype} values from {flat.min().item():g} to {flat.max().item():g}"
