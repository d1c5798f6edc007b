"""Packing: bytes by hand, exact round trips, and the bytes that are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bitdial.errors import BitdialError
from bitdial.numerics import (
    DamagedPacking,
    pack_bits,
    pack_trits,
    pack_trits_2bit,
    packed_length,
    unpack_bits,
    unpack_trits,
    unpack_trits_2bit,
)

SHAPES = [(), (0,), (1,), (4,), (5,), (6,), (3, 0, 2), (7, 3), (2, 3, 3, 3), (64, 9), (10007,)]
BOTH = [(pack_trits, unpack_trits, 5), (pack_trits_2bit, unpack_trits_2bit, 4)]


def trits(*shape: int) -> Tensor:
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(0), dtype=torch.int8)


def test_five_trits_by_hand() -> None:
    # Digits 2 1 0 1 1 (a trit plus one), the first at place 1: 2 + 3 + 0 + 27 + 81.
    assert pack_trits(torch.tensor([1, 0, -1, 0, 0])).tolist() == [113]
    assert pack_trits(torch.tensor([1, 1, 1, 1, 1])).tolist() == [242]
    assert pack_trits(torch.tensor([-1, -1, -1, -1, -1, -1])).tolist() == [0, 0 + 3 + 9 + 27 + 81]


def test_two_bits_by_hand() -> None:
    assert pack_trits_2bit(torch.tensor([1, 0, -1, 0])).tolist() == [0b01_00_01_10]
    assert pack_trits_2bit(torch.tensor([-1])).tolist() == [0b01_01_01_00]


def test_three_bits_by_hand() -> None:
    assert pack_bits(torch.tensor([1, 2, 7]), 3).tolist() == [0b11_010_001, 0b1]


def test_every_byte_up_to_242_is_five_trits_of_its_own() -> None:
    packed = torch.arange(243, dtype=torch.uint8)
    codes = unpack_trits(packed, (243, 5))
    # The plain reference: digits by division.
    for byte in range(243):
        assert codes[byte].tolist() == [byte // 3**place % 3 - 1 for place in range(5)]
    assert torch.equal(pack_trits(codes), packed)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("pack", "unpack", "per_byte"), BOTH)
def test_any_shape_comes_back(shape: tuple[int, ...], pack: Any, unpack: Any, per_byte: int) -> None:
    codes = trits(*shape)
    packed = pack(codes)
    assert packed.dtype == torch.uint8
    assert packed.shape == (math.ceil(codes.numel() / per_byte),)
    back = unpack(packed, shape)
    assert back.dtype == torch.int8
    assert torch.equal(back, codes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_any_width_and_shape_come_back(shape: tuple[int, ...], bits: int) -> None:
    codes = torch.randint(0, 2**bits, shape, generator=torch.Generator().manual_seed(0))
    packed = pack_bits(codes, bits)
    assert packed.numel() == packed_length(codes.numel(), bits) == math.ceil(codes.numel() * bits / 8)
    assert torch.equal(unpack_bits(packed, bits, shape).long(), codes)


@pytest.mark.parametrize(("pack", "unpack", "per_byte"), BOTH)
def test_layout_and_dtype_of_the_codes_do_not_matter(pack: Any, unpack: Any, per_byte: int) -> None:
    codes = trits(4, 3, 5, 5)
    plain = pack(codes)
    for other in (
        codes.contiguous(memory_format=torch.channels_last),
        codes.float(),
        codes.half(),
        codes.double() * 1.0,
        codes.repeat_interleave(2, dim=1)[:, ::2],
    ):
        assert torch.equal(pack(other), plain)
    assert torch.equal(pack(-codes.float() * 0.0), pack(torch.zeros_like(codes)))  # -0 is 0


@pytest.mark.parametrize(("pack", "unpack", "per_byte"), BOTH)
def test_packing_changes_neither_its_input_nor_its_output_later(pack: Any, unpack: Any, per_byte: int) -> None:
    codes = trits(25)
    before = codes.clone()
    packed = pack(codes)
    back = unpack(packed, (25,))
    back.zero_()
    codes.zero_()
    assert torch.equal(unpack(packed, (25,)), before)  # and the look-up table is as it was


def test_a_large_tensor_takes_1_6_bits() -> None:
    codes = trits(512, 512, 3, 3)
    packed = pack_trits(codes)
    assert 1.6 <= packed.numel() * 8 / codes.numel() < 1.6001
    assert torch.equal(unpack_trits(packed, codes.shape), codes)


@pytest.mark.parametrize("byte", range(243, 256))
def test_bytes_that_stand_for_no_trits_are_damage(byte: int) -> None:
    packed = pack_trits(trits(25))
    packed[3] = byte
    with pytest.raises(DamagedPacking, match=f"packed trits must be bytes up to 242, got {byte} at byte 3"):
        unpack_trits(packed, (25,))


@pytest.mark.parametrize("pair", range(4))
def test_pairs_of_bits_that_stand_for_no_trit_are_damage(pair: int) -> None:
    packed = pack_trits_2bit(trits(16))
    packed[2] |= 3 << (2 * pair)
    with pytest.raises(DamagedPacking, match="got 3 in byte 2"):
        unpack_trits_2bit(packed, (16,))


def test_what_fills_the_last_byte_must_be_zero() -> None:
    for unpack, packed, count in (
        (unpack_trits, torch.tensor([242], dtype=torch.uint8), 3),
        (unpack_trits_2bit, torch.tensor([0b10_00_00_01], dtype=torch.uint8), 3),
        (lambda p, s: unpack_bits(p, 3, s), torch.tensor([0b1000_0000], dtype=torch.uint8), 2),
    ):
        with pytest.raises(DamagedPacking, match="must be filled up with zeros"):
            unpack(packed, (count,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack_trits(torch.tensor([0, 2])), "trits must be -1, 0 or 1, got torch.int64 values from 0 to 2"),
        (lambda: pack_trits(torch.tensor([0.5])), "trits must be -1, 0 or 1"),
        (lambda: pack_trits(torch.tensor([math.nan])), "trits must be -1, 0 or 1"),
        (lambda: pack_trits(torch.tensor([math.inf])), "trits must be -1, 0 or 1"),
        (lambda: pack_trits_2bit(torch.tensor([-2])), "trits must be -1, 0 or 1"),
        (lambda: pack_trits([0, 1]), "codes must be a tensor of real numbers, got list"),
        (lambda: pack_trits(None), "codes must be a tensor of real numbers, got NoneType"),
        (lambda: pack_trits(torch.tensor([True])), "codes must be a tensor of real numbers, got torch.bool"),
        (lambda: pack_trits(torch.tensor([1j])), "codes must be a tensor of real numbers, got torch.complex64"),
        (lambda: pack_bits(torch.tensor([8]), 3), "codes for 3 bits must be whole numbers from 0 to 7"),
        (lambda: pack_bits(torch.tensor([-1]), 3), "codes for 3 bits must be whole numbers from 0 to 7"),
        (lambda: pack_bits(torch.tensor([1.0]), 3), "codes for 3 bits must be whole numbers from 0 to 7"),
        (lambda: pack_bits(torch.tensor([1]), 0), "bits a code must be a whole number from 1 to 8, got 0"),
        (lambda: pack_bits(torch.tensor([1]), 9), "bits a code must be a whole number from 1 to 8, got 9"),
        (lambda: pack_bits(torch.tensor([1]), 2.0), "bits a code must be a whole number from 1 to 8, got 2.0"),
        (lambda: pack_bits(torch.tensor([1]), True), "bits a code must be a whole number from 1 to 8, got True"),
        (lambda: unpack_trits(torch.zeros(2, dtype=torch.uint8), (11,)), "11 codes of shape (11,) must be packed in 3"),
        (lambda: unpack_trits(torch.zeros(2, dtype=torch.uint8), (5,)), "5 codes of shape (5,) must be packed in 1"),
        (
            lambda: unpack_trits(torch.zeros(2), (10,)),
            "packed codes must be a uint8 tensor of one dimension, got torch.f",
        ),
        (
            lambda: unpack_trits(torch.zeros(1, 2, dtype=torch.uint8), (10,)),
            "packed codes must be a uint8 tensor of one",
        ),
        (lambda: unpack_trits(b"ab", (10,)), "packed codes must be a uint8 tensor of one dimension, got bytes"),
        (
            lambda: unpack_trits(torch.zeros(2, dtype=torch.uint8), (-2, -5)),
            "shape must be a sequence of whole numbers",
        ),
        (lambda: unpack_trits(torch.zeros(2, dtype=torch.uint8), 10), "shape must be a sequence of whole numbers"),
        (lambda: unpack_trits(torch.zeros(2, dtype=torch.uint8), "10"), "shape must be a sequence of whole numbers"),
        (lambda: unpack_trits(torch.zeros(2, dtype=torch.uint8), (10.0,)), "shape must be a sequence of whole numbers"),
        (lambda: unpack_bits(torch.zeros(2, dtype=torch.uint8), 12, (10,)), "bits a code must be a whole number"),
    ],
)
def test_bad_arguments_get_a_sentence(call: Any, message: str) -> None:
    with pytest.raises(BitdialError) as caught:
        call()
    assert str(caught.value).startswith(message)
