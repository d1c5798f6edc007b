"""Sizes are those of real files and real tensors, each under the name of what it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from bitdial.export import load_packed, packed_sizes, save_packed
from bitdial.layers import BitDial, quantize
from bitdial.layers.widths import held_widths
from tests.export.models import TERNARY, Net, build


@pytest.mark.parametrize("quantizer", [*TERNARY, "uniform", "dorefa"])
@pytest.mark.parametrize("encoding", ["base3", "2bit"])
def test_sizes_are_those_of_the_file_and_of_the_loaded_model(tmp_path: Path, quantizer: str, encoding: Any) -> None:
    model = build(quantizer)
    sizes = packed_sizes(model, encoding)
    path = save_packed(model, tmp_path / "net", encoding)
    assert sizes.file == path.stat().st_size
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert sizes.file == header + sizes.weights + sizes.scales + sizes.other
    loaded = load_packed(path, build(quantizer, seed=5))
    widths = [width for module in loaded.modules() for width in held_widths(module).values()]
    held = [*loaded.parameters(), *loaded.buffers(), *widths]
    assert sizes.memory == sum(t.numel() * t.element_size() for t in held)
    plain = [*Net().parameters(), *Net().buffers()]
    assert sizes.float32 == sum(t.numel() * t.element_size() for t in plain)
    assert sizes.packed_weights == 6 * 7 * 9 + 11 * 6
    assert sizes.float32_weights == 4 * sizes.packed_weights


@pytest.mark.parametrize("quantizer", TERNARY)
def test_ternary_weights_take_1_6_bits_within_one_percent(quantizer: str) -> None:
    sizes = packed_sizes(quantize(nn.Conv2d(32, 48, 3), quantizer=quantizer))
    assert 1.6 <= sizes.bits_per_weight < 1.6 * 1.01
    assert packed_sizes(quantize(nn.Conv2d(32, 48, 3), quantizer=quantizer), "2bit").bits_per_weight == 2


def test_scales_are_counted_for_what_they_are() -> None:
    for quantizer, granularity, scales in (
        ("twn", "channel", 48),
        ("twn", "tensor", 1),
        ("absmean", "tensor", 1),
        ("ternary_lsq", "channel", 48),
        ("ttq", "tensor", 2),
        ("ttq", "channel", 96),
    ):
        model = quantize(nn.Conv2d(32, 48, 3), quantizer=quantizer, granularity=granularity)
        assert packed_sizes(model).scales == 4 * scales


def test_a_model_in_half_precision_is_compared_with_float32() -> None:
    full, half = packed_sizes(build("twn")), packed_sizes(build("twn").half())
    assert half.float32 == full.float32
    assert half.weights == full.weights
    assert half.scales == full.scales / 2
    assert half.memory < 0.7 * full.memory


def test_layers_at_32_bits_are_not_counted_as_packed() -> None:
    model = build("ttq")
    BitDial(model).set(weights=32)
    sizes = packed_sizes(model)
    assert sizes.packed_weights == sizes.weights == sizes.scales == sizes.bits_per_weight == 0
    assert sizes.other > sizes.float32


def test_the_table_names_each_figure() -> None:
    sizes = packed_sizes(quantize(nn.Linear(100, 100), quantizer="twn", granularity="tensor"))
    lines = sizes.table().splitlines()
    assert lines[1].startswith("packed weights alone (1.600 bits)")
    assert f"{2000:,}" in lines[1]
    assert lines[1].endswith("20.00x")
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "packed weights with scales", "whole file", "memory at run time"
    ]  # fmt: skip
    assert math.isclose(float(lines[4].split()[-1][:-1]), sizes.float32 / sizes.memory, abs_tol=0.01)
