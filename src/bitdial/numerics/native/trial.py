"""Trying the kernels on numbers whose results are known, before they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bitdial.numerics.native import Kernels


@torch.no_grad()
def gives_right_values(kernels: Kernels) -> bool:
    """Try every kernel: on enough numbers to fill vectors, with some to spare."""
    # Whatever torch's default device and dtype are.
    x = torch.arange(-33, 34, dtype=torch.float32, device="cpu") / 8  # with ties
    return all(tried(kernels, x) for tried in (_ranges, _own_ranges, _ternary, _learned, _fitted))


def _ranges(kernels: Kernels, x: Tensor) -> bool:
    out = torch.empty_like(x)
    kernels.snap(x, -3.0, 4.0, 0.5, clip=True, out=out)
    good = torch.equal(out, ((x.clamp(-3.0, 4.0) + 3.0) * 2.0).round() * 0.5 - 3.0)
    kernels.snap(x, -4.125, 4.125, 0.5, clip=False, out=out)
    return (
        good and torch.equal(out, ((x + 4.125) * 2.0).round() * 0.5 - 4.125) and kernels.min_max(x) == (-4.125, 4.125)
    )


def _own_ranges(kernels: Kernels, x: Tensor) -> bool:
    rows = torch.stack([x, x * 2.0])
    steps = rows.amax(1, keepdim=True) / 1.5
    good = torch.equal(kernels.snap_rows(rows, 2, 3, 0.5), ((rows * steps.reciprocal() - 0.5).round() + 0.5) * steps)
    bent = rows.tanh()
    values, slopes = kernels.dorefa(rows, 2, 3, 0.5)
    codes = (bent / bent.amax(1, keepdim=True) * 1.5 - 0.5).round() + 0.5
    means = rows.abs().mean(1, keepdim=True)
    good = (
        good
        and torch.allclose(values, codes / 1.5 * means)
        and torch.allclose(slopes[:, None], means / bent.amax(1, True))
    )
    slope = kernels.dorefa_gradient(rows, x.expand(2, -1).contiguous(), slopes)
    return good and torch.allclose(slope, x * (1 - bent * bent) * slopes[:, None], atol=1e-5)


def _ternary(kernels: Kernels, x: Tensor) -> bool:
    rows = torch.stack([x, x * 2.0])
    size, signs = rows.abs(), rows.sign()
    mean = size.mean(1, keepdim=True)
    good = True
    for way, share in (("mean", 0.5), ("above", 0.7)):
        above = size > share * mean
        scale = mean if way == "mean" else (size * above).sum(1, keepdim=True) / above.sum(1, keepdim=True)
        good = good and torch.allclose(kernels.ternarize(rows, 2, share, way)[0], signs * above * scale)
    binary = torch.where(rows < 0, -mean, mean)
    good = good and torch.allclose(kernels.ternarize(rows, 2, 0.0, "mean")[0], binary)
    scales = x[-2:].clone(), x[-4:-2].clone()
    up, down = rows > 0.25 * 4.125 * x.new_tensor([[1.0], [2.0]]), rows < -0.25 * 4.125 * x.new_tensor([[1.0], [2.0]])
    values, sizes = kernels.ternarize(rows, 2, 0.25, (scales[0], -scales[1]))
    good = good and torch.equal(values, scales[0][:, None] * up - scales[1][:, None] * down)
    gradient = rows.flip(1).contiguous()
    by_weight, ups, downs = kernels.ternarize_gradient(rows, gradient, sizes, 0.25, (scales[0], -scales[1]), 0.5)
    slope = torch.where(up, scales[0][:, None], torch.where(down, scales[1][:, None], 1.0))
    by_scales = (gradient * up).sum(1) / 2, (gradient * down).sum(1) / 2
    return good and torch.equal(by_weight, gradient * slope) and torch.equal(ups, by_scales[0]) and torch.equal(
        downs, by_scales[1]
    )  # fmt: skip


def _learned(kernels: Kernels, x: Tensor) -> bool:
    rows, steps = torch.stack([x, x * 2.0]), x.new_tensor([1.0, -0.5])
    size = steps.abs()[:, None]
    position = rows / size
    grid = (-1.5, 2.5, 0.5, -2.0, 1.5, 0.75, 0.5)
    codes = ((position - 0.5).round() + 0.5).clamp(-1.5, 2.5)
    good = torch.equal(kernels.steps(rows, steps, grid), codes * size)
    gradient = rows.flip(1).contiguous()
    for strict in (True, False):
        inside = (position > -2.0) & (position < 1.5) if strict else (position >= -2.0) & (position <= 1.5)
        by_weight, by_step = kernels.steps_gradient(rows, gradient, steps, grid, strict, 2.0)
        change = gradient * torch.where(inside, codes * 0.75 - position * 0.5, codes)
        good = good and torch.equal(by_weight, gradient * inside)
        good = good and torch.allclose(by_step, change.sum(1) * steps.sign() * 2)
    return good


def _fitted(kernels: Kernels, x: Tensor) -> bool:
    rows = torch.stack([x, x * 2.0])
    good = torch.allclose(kernels.mean_squares(rows, 2), rows.square().mean(1))
    cells = (x / 1.03125).floor().clamp(-4, 3) + 0.5  # 33 of 128 steps, the largest magnitude being 4.125
    good = good and torch.equal(kernels.cut_rows(rows, 2, 128.0, 32.0, 4.0), torch.stack([cells, cells * 2]) * 1.03125)
    hadamard = x.new_tensor([[1.0, 1.0], [1.0, -1.0]])
    hadamard = torch.kron(hadamard, hadamard) / 2
    for blocks, inner in ((x[:66].view(11, 2, 3).repeat(1, 2, 1), 3), (x[:64].view(16, 4, 1), 1)):
        good = good and torch.equal(kernels.rotate(blocks, 4, inner), hadamard @ blocks)
    return good
