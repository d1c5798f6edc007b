"""Trying the kernels on numbers whose sums are known, before they are used on a machine."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bitdial.export.calibration import ActivationGrid
from bitdial.numerics.native.build import UnavailableError
from bitdial.runtime.kernels.structures import ALWAYS, Library, compiled
from bitdial.runtime.operations import Borders, Convolve, Operation, Shape
from bitdial.runtime.program import Program
from bitdial.runtime.weights import Weights

_CASES = ((1, 1, (-1, 0, 1)), (1, 2, (-15, 15)), (10, 2, (-1, 0, 1)), (1, 1, (-128, 127)))
"""Groups (as many as channels: the kernel for these), stride, and the weights that there are."""


@functools.cache
def checked() -> Library:
    """The compiled library, whose sums are right here.

    Raises:
        UnavailableError: there is none on this machine, or its sums are wrong.
    """
    library = compiled()
    for case in _CASES:
        if not _right(*case):
            raise UnavailableError("what was compiled gives wrong sums")
    return library


@torch.no_grad()
def _right(groups: int, stride: int, weights: tuple[int, ...]) -> bool:
    """Compare a small convolution at the largest codes with the same in wide integers."""
    generator = np.random.default_rng(0)
    channels, out = 10, 20 if groups == 1 else 10
    codes = generator.choice(weights, (out, channels // groups, 3, 3)).astype(np.int32)
    x = torch.from_numpy(generator.choice([0, 7, 255], (2, channels, 5, 6)))
    grid = ActivationGrid(1.0, 7, 256, -7.0, 248.0)
    kind = Convolve(Weights(codes, groups, 255), grid, (stride, stride), Borders(1, 1, 1, 1))
    expected = functional.conv2d(x - 7, torch.from_numpy(codes).long(), None, stride, 1, 1, groups)
    shape, image = Shape(*expected.shape[1:]), Shape(channels, 5, 6)
    program = Program([Operation(kind, ["x"], "y", shape, image)], {"x": image}, {"y": shape})
    return all(
        torch.equal(_sums(program, x - 7, tiled), expected.float())
        for tiled in ((0, ALWAYS) if groups == stride == 1 else (0,))
    )


def _sums(program: Program, x: Tensor, tiled: int) -> Tensor:
    """What comes out, with the convolutions in tiles or not."""
    for each in program.convolutions:
        each.tiled = tiled
    return program([x.float().permute(0, 2, 3, 1).contiguous()], len(x), 1)[0].permute(0, 3, 1, 2)
