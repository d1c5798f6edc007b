"""The kernels give the very sums of whole numbers, whatever a layer's shape, at the largest codes and weights too."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from bitdial.export.calibration import ActivationGrid
from bitdial.numerics.native.build import UnavailableError
from bitdial.runtime.kernels.structures import ALWAYS, compiled
from bitdial.runtime.operations import Borders, Convolve, Operation, Shape
from bitdial.runtime.program import Program
from bitdial.runtime.weights import Weights


def unavailable() -> str:
    try:
        compiled()
    except UnavailableError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(unavailable()), reason=f"no kernels here: {unavailable()}")

SETS: dict[str, tuple[int, ...]] = {
    "ternary": (-1, 0, 1),
    "2 bits, odd": (-3, -1, 1, 3),
    "2 bits, signed": (-2, -1, 0, 1),
    "3 bits, odd": (-7, -5, -3, -1, 1, 3, 5, 7),
    "4 bits, signed": tuple(range(-8, 8)),
    "4 bits, odd": tuple(range(-15, 16, 2)),
    "5 bits": tuple(range(-16, 16)),
    "7 bits": tuple(range(-64, 65)),
    "8 bits": tuple(range(-128, 128)),
}
"""The weights that a layer may have."""

SHAPES: dict[str, tuple[Any, ...]] = {
    # in, out, image, kernel, stride, padding, dilation, groups
    "plain": (16, 16, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "many blocks": (64, 48, (5, 7), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "odd channels": (7, 19, (6, 5), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "one channel": (1, 1, (4, 9), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "stride": (12, 20, (9, 7), (3, 3), (2, 2), (1, 1), (1, 1), 1),
    "stride and kernel uneven": (5, 17, (9, 10), (2, 5), (3, 2), (0, 2), (1, 1), 1),
    "dilation": (8, 16, (9, 9), (3, 3), (1, 1), (2, 2), (2, 2), 1),
    "pointwise": (24, 33, (7, 3), (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "pointwise, padded": (6, 8, (3, 3), (1, 1), (2, 2), (1, 1), (1, 1), 1),
    "groups": (12, 24, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1), 4),
    "groups, odd": (15, 21, (5, 6), (3, 3), (1, 1), (1, 1), (1, 1), 3),
    "depthwise": (35, 35, (6, 7), (3, 3), (1, 1), (1, 1), (1, 1), 35),
    "depthwise, stride": (16, 16, (9, 5), (5, 5), (2, 2), (2, 2), (1, 1), 16),
    "depthwise, more outputs": (6, 12, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1), 6),
    "long sums": (256, 16, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "a vector": (300, 40, (1, 1), (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "a vector, in whole steps": (512, 31, (1, 1), (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "wide": (4, 16, (2, 300), (3, 3), (1, 1), (1, 1), (1, 1), 1),
}


def reference(x: Any, codes: Any, zero: int, geometry: tuple[Any, ...]) -> Any:
    """Sums of ``(code - zero) * weight`` in whole numbers of 64 bits."""
    _, _, _, _, stride, padding, dilation, groups = geometry
    return functional.conv2d(
        torch.as_tensor(x).long() - zero, torch.as_tensor(codes).long(), None, stride, padding, dilation, groups
    )


def computed(x: Any, codes: Any, zero: int, levels: int, geometry: tuple[Any, ...], threads: int = 1) -> Any:
    return run(program_of(x, codes, zero, levels, geometry), x, zero, threads)


def run(program: Program, x: Any, zero: int, threads: int = 1) -> Any:
    inputs = torch.as_tensor(x - zero).permute(0, 2, 3, 1).float().contiguous()
    return program([inputs], len(x), threads)[0].permute(0, 3, 1, 2)


def in_tiles(program: Program, examples: int) -> bool:
    """Whether its convolution is computed in tiles, of so many examples at a time."""
    (convolution,) = program.convolutions
    return bool(compiled().in_tiles(ctypes.addressof(convolution), examples))


def program_of(x: Any, codes: Any, zero: int, levels: int, geometry: tuple[Any, ...]) -> Program:
    _, out, _, kernel, stride, padding, dilation, groups = geometry
    grid = ActivationGrid(1.0, zero, levels, float(-zero), float(levels - 1 - zero))
    kind = Convolve(Weights(codes, groups, levels - 1), grid, stride, Borders(*padding, *padding), dilation)
    spans = [dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    size = [(x.shape[2 + i] + 2 * padding[i] - spans[i]) // stride[i] + 1 for i in range(2)]
    shape, image = Shape(out, size[0], size[1]), Shape(*x.shape[1:])
    return Program([Operation(kind, ["x"], "y", shape, image)], {"x": image}, {"y": shape})


def drawn(geometry: tuple[Any, ...], weights: tuple[int, ...], levels: int, examples: int, largest: bool) -> Any:
    inputs, out, image, kernel, *_, groups = geometry
    generator = np.random.default_rng(0)
    shape = (out, inputs // groups, *kernel)
    if largest:  # every sum at its end, of either sign
        codes = np.full(shape, max(weights, key=abs)) * np.where(np.arange(out) % 2, -1, 1)[:, None, None, None]
        codes = codes.clip(min(weights), max(weights))
        return np.full((examples, inputs, *image), levels - 1), codes.astype(np.int32)
    return generator.integers(0, levels, (examples, inputs, *image)), generator.choice(weights, shape).astype(np.int32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("weights", "largest"),
    [*((name, True) for name in SETS), *((name, False) for name in ("ternary", "4 bits, odd", "8 bits"))],
)
def test_sums_are_exact(weights: str, largest: bool, shape: str) -> None:
    for levels, zero in ((256, 3), (16, 0)):
        x, codes = drawn(SHAPES[shape], SETS[weights], levels, 1 if "vector" in shape else 2, largest)
        expected = reference(x, codes, zero, SHAPES[shape])
        assert torch.equal(computed(x, codes, zero, levels, SHAPES[shape]), expected.float())


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("examples", [1, 2, 7])
@pytest.mark.parametrize("shape", ["many blocks", "groups, odd", "depthwise", "a vector", "wide"])
def test_threads_and_batches_change_nothing(shape: str, examples: int, threads: int) -> None:
    x, codes = drawn(SHAPES[shape], SETS["4 bits, odd"], 256, examples, False)
    expected = reference(x, codes, 130, SHAPES[shape]).float()
    assert torch.equal(computed(x, codes, 130, 256, SHAPES[shape], threads), expected)


@pytest.mark.parametrize(("weights", "bits"), [("ternary", 2), ("2 bits, odd", 2), ("4 bits, odd", 4), ("5 bits", 8)])
def test_weights_take_their_bits_in_memory(weights: str, bits: int) -> None:
    codes = drawn(SHAPES["plain"], SETS[weights], 256, 1, False)[1]
    made = Weights(codes, 1, 255)
    assert made.packing.bits == bits
    assert made.packed.nbytes == codes.size * bits // 8


def test_weights_without_zero_are_not_packed_where_zeros_must_fill_up() -> None:
    made = Weights(drawn(SHAPES["odd channels"], SETS["2 bits, odd"], 256, 1, False)[1], 1, 255)
    assert made.packing.bits == 4


def test_large_weights_are_multiplied_as_wider_numbers() -> None:
    codes = drawn(SHAPES["plain"], SETS["8 bits"], 256, 1, False)[1]
    assert Weights(codes, 1, 255).wide
    assert not Weights(codes, 1, 15).wide  # 2 * 15 * 128 fits 8 times
    assert not Weights(codes.clip(-15, 15), 1, 255).wide


TILED: dict[str, tuple[Any, ...]] = {  # 3 x 3 with stride 1, all of them
    "whole tiles": (16, 16, (8, 8)),
    "cut off below and on the right": (20, 35, (17, 9)),
    "one column of tiles": (12, 16, (50, 3)),
    "more tiles in a row than in a group": (4, 17, (6, 270)),
    "several chunks of channels": (260, 16, (9, 10)),
    "odd channels": (7, 5, (21, 22)),
    "no border": (16, 32, (18, 19)),
    "borders of 2": (16, 16, (15, 16)),
}
"""Inputs, outputs and images."""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("weights", ["ternary", "2 bits, odd", "4 bits, odd", "7 bits", "8 bits"])
@pytest.mark.parametrize("shape", TILED)
def test_sums_in_tiles_are_exact(shape: str, weights: str, threads: int) -> None:
    padding = {"no border": 0, "borders of 2": 2}.get(shape, 1)
    geometry = (*TILED[shape], (3, 3), (1, 1), (padding, padding), (1, 1), 1)
    for examples, largest in ((1, False), (3, True)):
        x, codes = drawn(geometry, SETS[weights], 256, examples, largest)
        program = program_of(x, codes, 9, 256, geometry)
        (convolution,) = program.convolutions
        assert convolution.tiled == (Weights(codes, 1, 255).largest_sum < 2**25)
        convolution.tiled *= ALWAYS
        assert in_tiles(program, 1) == bool(convolution.tiled)
        assert torch.equal(run(program, x, 9, threads), reference(x, codes, 9, geometry).float())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_codes_at_both_ends_are_exact_in_tiles(seed: int) -> None:
    geometry = (16, 16, (32, 32), (3, 3), (1, 1), (1, 1), (1, 1), 1)
    generator = np.random.default_rng(seed)
    x = generator.choice([0, 255], (1, 16, 32, 32))
    x[:, :8, 1:7, 1:7] = 255 * np.equal.outer(*2 * [[0, -1, -1, 1, 1, 0]])  # as the largest weights of the inputs want
    codes = generator.choice([-128, 127], (16, 16, 3, 3)).astype(np.int32)
    program = program_of(x, codes, 0, 256, geometry)
    assert in_tiles(program, 1)
    assert torch.equal(run(program, x, 0), reference(x, codes, 0, geometry).float())


@pytest.mark.parametrize("examples", [1, 2, 3, 40])
def test_small_images_share_a_group_of_tiles(examples: int) -> None:
    geometry = (64, 16, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), 1)
    x, codes = drawn(geometry, SETS["ternary"], 256, examples, False)
    # with few, all products cost less
    assert in_tiles(program_of(x, codes, 9, 256, geometry), examples) == (examples > 3)


@pytest.mark.parametrize("change", ["stride", "dilation", "groups", "kernel"])
def test_other_convolutions_are_not_computed_in_tiles(change: str) -> None:
    stride, dilation, groups, kernel = ((2, 2) if change == name else (1, 1) for name in ("stride", "dilation", "", ""))
    kernel, groups = ((5, 3) if change == "kernel" else (3, 3)), (2 if change == "groups" else 1)
    geometry = (16, 16, (32, 32), kernel, stride, (1, 1), dilation, groups)
    x, codes = drawn(geometry, SETS["ternary"], 256, 2, False)
    assert not in_tiles(program_of(x, codes, 9, 256, geometry), 2)
    assert torch.equal(computed(x, codes, 9, 256, geometry), reference(x, codes, 9, geometry).float())


def test_sums_too_large_for_tiles_are_not_computed_in_them() -> None:
    geometry = (1100, 16, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 1)
    for least, tiles in ((-13, True), (-14, False)):  # 255 * 9 * 1,100 times that, around 2^25
        codes = np.full((16, 1100, 3, 3), least, np.int32)
        x = np.full((2, 1100, 8, 8), 255)
        assert in_tiles(program_of(x, codes, 0, 256, geometry), 2) == tiles
        assert torch.equal(computed(x, codes, 0, 256, geometry), reference(x, codes, 0, geometry).float())
