"""A width is a real number from 1 to 32, and stands for round(2**bits) levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bitdial.errors import BitdialError
from bitdial.numerics import check_bits, levels


@pytest.mark.parametrize(
    ("bits", "expected"),
    # 2**1.58 = 2.99 and 2**2.32 = 4.99: the widths that are known as ternary and quinary.
    [(1, 2), (1.58, 3), (2, 4), (2.32, 5), (3, 8), (3.5, 11), (8, 256), (16, 65536)],
)
def test_levels_are_two_to_the_bits_rounded(bits: float, expected: int) -> None:
    assert levels(torch.tensor(float(bits))).item() == expected


def test_levels_are_never_fewer_than_two() -> None:
    assert levels(torch.tensor([1.0, 1.1, 0.0])).tolist() == [2, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_levels_are_counted_in_float32_whatever_the_dtype_of_the_width(dtype: torch.dtype) -> None:
    counted = levels(torch.tensor(16.0, dtype=dtype))
    assert counted.dtype == torch.float32
    assert counted.item() == 65536


@pytest.mark.parametrize("bits", [1, 1.5, 32, 32.0, np.float32(4), np.int64(4)])
def test_check_bits_takes_any_real_number_in_range(bits: Any) -> None:
    assert check_bits(bits) == float(bits)


@pytest.mark.parametrize(
    "bits",
    [
        0,
        -1,
        0.999,
        32.001,
        64,
        float("nan"),
        float("inf"),
        -float("inf"),
        True,
        None,
        "8",
        "",
        [8],
        (8,),
        8j,
        {},
        object,
        torch.tensor(8.0),
        np.arange(200.0),
        b"8",
    ],
)
def test_check_bits_refuses_everything_else_in_one_sentence(bits: Any) -> None:
    with pytest.raises(BitdialError) as caught:
        check_bits(bits, 'layer "conv1"')
    message = str(caught.value)
    assert message.startswith("bits must be ")
    assert "[1, 32], got " in message
    assert message.endswith('for layer "conv1"; give a width from 1 to 16, or 32 for unquantized')
    assert "\n" not in message
    assert len(message) < 200


def test_check_bits_without_a_place_names_none() -> None:
    with pytest.raises(BitdialError, match=r"got 0; give a width"):
        check_bits(0)
