"""Which elements of the latents HPCM codes when: three scales, 2 + 3 + 6 steps, every element once.

The channels are split in equal groups. The latents at half the resolution (scale 2) take one *phase* of each 2x2 cell
from each of eight groups; those at a quarter (scale 1) take one from each of four groups of scale 2. In one step one
group is live at every position, so that a step packs into a dense tensor.

Source: Li et al., "Learned Image Compression with Hierarchical Progressive Context Modeling", ICCV 2025, figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Phases = tuple[tuple[int, int], ...]
"""Row and column in a 2x2 cell, for each group of channels."""
TO_SCALE_2: Phases = ((0, 0), (1, 1), (0, 1), (1, 0)) * 2
TO_SCALE_1: Phases = ((0, 0), (0, 1), (1, 0), (1, 1))
RELEASED_TO_SCALE_1: Phases = ((0, 0), (0, 0), (0, 1), (0, 1))
"""Where the released code looks for what scale 1 has coded, when it collects the hyper-parameters for scale 2."""


def take(x: Tensor, phases: Phases) -> Tensor:
    """Elements of each group at its phase: `[B, C, H, W] -> [B, C, H/2, W/2]`."""
    groups = x.chunk(len(phases), 1)
    return torch.cat([group[..., i::2, j::2] for group, (i, j) in zip(groups, phases, strict=True)], 1)


def put(x: Tensor, phases: Phases) -> Tensor:
    """Elements back to where `take` found them, zeros elsewhere: `[B, C, H, W] -> [B, C, 2 H, 2 W]`."""
    batch, channels, height, width = x.shape
    found = x.new_zeros(batch, channels, 2 * height, 2 * width)
    size = channels // len(phases)
    for first, (i, j) in zip(range(0, channels, size), phases, strict=True):
        found[:, first : first + size, i::2, j::2] = x[:, first : first + size]
    return found


def places(like: Tensor, phases: Phases) -> Tensor:
    """Bool `[1, C, H, W]`, shaped like `[B, C, H, W]`: where `take` finds its elements."""
    coarse = like[:1, :, ::2, ::2]
    return put(torch.ones_like(coarse, dtype=torch.bool), phases)


def at_scale(x: Tensor, scale: int, parts: int = 1) -> Tensor:
    """Latents at scale 3 (as they are), 2 or 1; `parts` of them one after the other, such as scales and means."""
    for phases in (TO_SCALE_2, TO_SCALE_1)[: 3 - scale]:
        x = take(x, phases * parts)
    return x


@dataclass(frozen=True)
class Pattern:
    """The elements of one step.

    Attributes:
        scale: 1, 2 or 3: a quarter, half, or all of the latents' resolution.
        groups: of channels.
        live: rows of a square tile: which group is coded at each position.
    """

    scale: int
    groups: int
    live: tuple[tuple[int, ...], ...]

    def mask(self, height: int, width: int, device: torch.device) -> Tensor:
        """Bool `[groups, 1, H, W]`."""
        tile, side = torch.tensor(self.live, device=device), len(self.live)
        live = tile.repeat(-(-height // side), -(-width // side))[:height, :width]
        return live == torch.arange(self.groups, device=device)[:, None, None, None]

    def pack(self, x: Tensor) -> Tensor:
        """The elements of the step, dense: `[B, C, H, W] -> [B, C / groups, H, W]`."""
        mask = self.mask(x.shape[-2], x.shape[-1], x.device)
        return torch.where(mask, torch.stack(x.chunk(self.groups, 1), 1), 0).sum(1)

    def unpack(self, x: Tensor) -> Tensor:
        """Elements back to their places, zeros elsewhere: `[B, C / groups, H, W] -> [B, C, H, W]`."""
        mask = self.mask(x.shape[-2], x.shape[-1], x.device)
        return torch.where(mask, x[:, None], 0).flatten(1, 2)


def _pattern(scale: int, side: int, cells: Sequence[Sequence[tuple[int, int]]]) -> Pattern:
    """From the cells of a tile that each group is live at."""
    live = {cell: group for group, its_cells in enumerate(cells) for cell in its_cells}
    return Pattern(scale, len(cells), tuple(tuple(live[i, j] for j in range(side)) for i in range(side)))


_CHECKERBOARD = (((0, 0), (1, 1)), ((0, 1), (1, 0)))
_QUARTERS = (((1, 1), (1, 0), (0, 1), (0, 0)), ((1, 0), (1, 1), (0, 0), (0, 1)), ((0, 1), (0, 0), (1, 1), (1, 0)))
_PAIRS = (  # in a 4x4 cell, each two rows and two columns apart
    ((0, 0), (2, 2)),
    ((0, 2), (2, 0)),
    ((1, 1), (3, 3)),
    ((1, 3), (3, 1)),
    ((0, 1), (2, 3)),
    ((0, 3), (2, 1)),
    ((1, 0), (3, 2)),
    ((1, 2), (3, 0)),
)
_PAIR_OF_GROUP = ("24603571", "35712460", "46025713", "57134602", "60247135", "71356024")

PATTERNS = (
    _pattern(1, 2, _CHECKERBOARD),
    _pattern(1, 2, _CHECKERBOARD[::-1]),
    *(_pattern(2, 2, [[cell] for cell in cells]) for cells in _QUARTERS),
    *(_pattern(3, 4, [_PAIRS[int(pair)] for pair in pairs]) for pairs in _PAIR_OF_GROUP),
)
"""The eleven steps in order."""
FIRST_STEP = {1: 1, 2: 3, 3: 6}
"""Of each scale."""
