"""Quantizers by name."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest

from bitdial.errors import BitdialError
from bitdial.numerics import QUANTIZERS, get_quantizer


@pytest.mark.parametrize("name", QUANTIZERS)
def test_each_is_found_under_its_own_name(name: str) -> None:
    quantizer = get_quantizer(name)
    assert quantizer.name == name
    assert quantizer.granularity in ("channel", "tensor")


@pytest.mark.parametrize("name", QUANTIZERS)
def test_copies_and_pickles_keep_the_functions(name: str) -> None:
    quantizer = get_quantizer(name)
    assert copy.deepcopy(quantizer) == quantizer
    assert pickle.loads(pickle.dumps(quantizer)) == quantizer


@pytest.mark.parametrize(
    "name",
    ["", "Uniform", "unifrom", "lqs", "TWN", "dorefa ", None, 3, True, ["uniform"], {}, b"uniform", get_quantizer],
)
def test_an_unknown_name_lists_the_known_ones(name: Any) -> None:
    with pytest.raises(BitdialError, match=rf"^quantizer must be one of {', '.join(QUANTIZERS)}, got ") as caught:
        get_quantizer(name)
    assert repr(name) in str(caught.value)


def test_a_typo_gets_the_nearest_name() -> None:
    with pytest.raises(BitdialError, match=r"got 'unifrom'; did you mean 'uniform'\?"):
        get_quantizer("unifrom")


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_fixed_grid_has_its_width_wherever_the_dial_stands_below_32(name: str) -> None:
    quantizer = get_quantizer(name)
    fixed = dict.fromkeys(("twn", "absmean", "ttq", "ternary_lsq"), math.log2(3)) | {"binary": 1.0}
    for bits in (1.0, 1.585, 2.0, 8.0, 31.9):
        own = float(int(bits)) if name == "nested" else bits
        assert quantizer.weight_width(bits) == fixed.get(name, own)
    assert quantizer.weight_width(32.0) == 32.0


def test_the_table_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError):
        QUANTIZERS["mine"] = QUANTIZERS["uniform"]  # type: ignore[index]
