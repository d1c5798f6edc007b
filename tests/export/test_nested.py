"""One packed file for every width: what it gives at k bits are the topmost k bits of what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bitdial.export import load_packed, packed_sizes, save_packed
from bitdial.export.packed import read_file
from bitdial.layers import BitDial, quantize
from bitdial.numerics import unpack_bits
from tests.export.models import build, images, weights


@pytest.mark.parametrize("granularity", ["channel", "tensor", "group:9"])
def test_one_file_gives_the_weights_of_every_width_bit_for_bit(tmp_path: Path, granularity: str) -> None:
    model = build("uniform", nested=True, granularity=granularity)
    dial = BitDial(model)
    dial.set(8)
    path = save_packed(model, tmp_path / "net.safetensors")
    loaded = load_packed(path, build("uniform", seed=5, nested=True, granularity=granularity))
    for width in (8, 7, 6, 5, 4, 3, 2, 1, 5):
        for net in (model, loaded):
            BitDial(net).set(width)
        for name, mine in weights(loaded).items():
            assert torch.equal(mine, weights(model)[name]), (name, width)
        assert torch.equal(loaded(images(3)), model(images(3)))


def test_the_weights_of_a_width_are_the_top_bits_of_the_file(tmp_path: Path) -> None:
    model = build("uniform", nested=True)
    BitDial(model).set(8)
    tensors, description = read_file(save_packed(model, tmp_path / "net.safetensors"))
    for name, record in description["layers"].items():
        assert (record["form"], record["levels"]) == ("grid", 256)
        codes = unpack_bits(tensors[f"{name}.weight.packed"], 8, tuple(record["shape"])).long()
        rows = codes.view(record["groups"], -1)
        step = tensors[f"{name}.weight.scales"]
        for width in range(1, 9):
            BitDial(model).set(width)
            top = rows >> (8 - width)
            expected = (top + 0.5 - 2.0 ** (width - 1)) * (step * 2.0 ** (8 - width))[:, None]
            assert torch.equal(weights(model)[name].view_as(expected), expected)


@pytest.mark.parametrize("stored", [8, 4, 2, 1])
def test_a_file_of_fewer_bits_serves_those_and_fewer(tmp_path: Path, stored: int) -> None:
    model = build("uniform", nested=True)
    BitDial(model).set(stored)
    path = save_packed(model, tmp_path / "net.safetensors")
    loaded = load_packed(path, build("uniform", seed=5, nested=True))
    for width in range(1, stored + 1):
        for net in (model, loaded):
            BitDial(net).set(weights=width)
        assert torch.equal(loaded(images(3)), model(images(3)))
    BitDial(loaded).set(weights=32)  # nothing finer is there
    BitDial(model).set(weights=stored)
    for name, mine in weights(loaded).items():
        assert torch.equal(mine, weights(model)[name])


def test_saved_again_and_in_a_state_dict_it_stays_the_same(tmp_path: Path) -> None:
    model = build("uniform", nested=True)
    BitDial(model).set(8)
    first = save_packed(model, tmp_path / "one.safetensors")
    loaded = load_packed(first, build("uniform", seed=5, nested=True))
    second = save_packed(loaded, tmp_path / "two.safetensors")
    assert second.read_bytes() == first.read_bytes()
    BitDial(loaded).set(3)
    third = save_packed(loaded, tmp_path / "three.safetensors")
    BitDial(model).set(3)
    assert third.read_bytes() == save_packed(model, tmp_path / "four.safetensors").read_bytes()

    other = load_packed(first, build("uniform", seed=6, nested=True))
    with torch.no_grad():
        other.stem.weight.zero_()
    other.load_state_dict(loaded.state_dict())
    assert torch.equal(other(images(3)), loaded(images(3)))


def test_a_file_of_other_grids_and_one_of_nested_ones_are_not_mixed_up(tmp_path: Path) -> None:
    nested, plain = build("uniform", nested=True), build("uniform")
    for model in (nested, plain):
        BitDial(model).set(8)
    path = save_packed(nested, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="has quantizer nested in the file and uniform in the model"):
        load_packed(path, plain)


@pytest.mark.parametrize("quantizer", ["uniform", "lsq", "seq", "quest", "pact", "quest_hadamard", "binary", "nested"])
@pytest.mark.parametrize("width", [1, 1.585, 2, 3, 4, 8])
@pytest.mark.parametrize("granularity", [None, "group:6"])
def test_every_quantizer_comes_back_bit_for_bit(
    tmp_path: Path, quantizer: str, width: float, granularity: str | None
) -> None:
    model = build(quantizer, granularity=granularity)
    BitDial(model).set(width)
    path = save_packed(model, tmp_path / "net.safetensors")
    loaded = load_packed(path, build(quantizer, seed=5, granularity=granularity))
    assert torch.equal(loaded(images(3)), model(images(3)))
    sizes = packed_sizes(model)
    held = [*loaded.parameters(), *loaded.buffers()]
    assert sizes.file == path.stat().st_size
    assert sizes.memory >= sum(t.nbytes for t in held)
    again = save_packed(loaded, tmp_path / "again.safetensors")
    twice = load_packed(again, build(quantizer, seed=6, granularity=granularity))
    assert torch.equal(twice(images(3)), model(images(3)))


@pytest.mark.parametrize("quantizer", ["lsq", "seq", "quest", "nested", "uniform"])
def test_the_codes_of_a_uniform_grid_take_their_bits_and_one_step_a_group(quantizer: str) -> None:
    model = nn.Sequential(nn.Conv2d(16, 24, 3))
    quantize(model, 8, 8, quantizer=quantizer, skip=())
    for width in (2, 3, 4, 8):
        BitDial(model).set(width)
        sizes = packed_sizes(model)
        assert sizes.bits_per_weight == width
        assert sizes.scales == 4 * model[0].scale_groups
