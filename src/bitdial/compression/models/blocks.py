"""What the codecs' networks are made of: residual blocks, steps between resolutions, attention inside windows.

No norm layers; every convolution has a bias. Names of parts (`branch`, `pconv`, `conv_q`) are those of the weights that
were published with HPCM, so that these load.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PartialConv(nn.Module):
    """A 3x3 convolution of the first quarter of the channels; the others pass through."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pconv = nn.Conv2d(channels // 4, channels // 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, C, H, W]`."""
        count = self.pconv.in_channels
        return torch.cat((self.pconv(x[:, :count]), x[:, count:]), 1)


class Residual(nn.Module):
    """`x + mix(spatial(x))`: two 1x1 convolutions, with `ratio` times the width and a LeakyReLU between them."""

    def __init__(self, spatial: nn.Module, channels: int, ratio: int) -> None:
        super().__init__()
        wide = ratio * channels
        self.branch = nn.Sequential(spatial, nn.Conv2d(channels, wide, 1), nn.LeakyReLU(), nn.Conv2d(wide, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, C, H, W]`."""
        found: Tensor = x + self.branch(x)
        return found


def partial_block(channels: int) -> Residual:
    """The block of transforms: a partial convolution, then four times the width."""
    return Residual(PartialConv(channels), channels, 4)


def depthwise_block(channels: int) -> Residual:
    """The block of priors: a depthwise convolution, then twice the width."""
    return Residual(nn.Conv2d(channels, channels, 3, padding=1, groups=channels), channels, 2)


def down(channels: int, out_channels: int) -> nn.Conv2d:
    """Half the resolution."""
    return nn.Conv2d(channels, out_channels, 2, 2)


def up(channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """Twice the resolution."""
    return nn.ConvTranspose2d(channels, out_channels, 2, 2)


class Transform(nn.Module):
    """Layers in a row."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Through all of them."""
        found: Tensor = self.branch(x)
        return found


def analysis(widths: Sequence[int], blocks: Sequence[int], latents: int) -> Transform:
    """`[B, 3, H, W] -> [B, latents, H/16, W/16]`: three widths, each with its number of blocks."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1)]
    for width, count, following in zip(widths, blocks, (*widths[1:], latents), strict=True):
        layers += [*(partial_block(width) for _ in range(count)), down(width, following)]
    return Transform(layers)


def synthesis(widths: Sequence[int], blocks: Sequence[int], latents: int) -> Transform:
    """`[B, latents, H, W] -> [B, 3, 16 H, 16 W]`: the mirror of `analysis`."""
    layers: list[nn.Module] = []
    for width, count, previous in reversed(list(zip(widths, blocks, (*widths[1:], latents), strict=True))):
        layers += [up(previous, width), *(partial_block(width) for _ in range(count))]
    return Transform([*layers, nn.ConvTranspose2d(widths[0], 3, 4, 2, 1)])


def hyper_analysis(latents: int, hyper: int, blocks: int) -> Transform:
    """`[B, latents, H, W] -> [B, hyper, H/4, W/4]`."""
    middle = [partial_block(hyper) for _ in range(blocks)]
    return Transform([partial_block(latents), down(latents, hyper), *middle, down(hyper, hyper)])


def hyper_synthesis(hyper: int, out_channels: int, blocks: int) -> Transform:
    """`[B, hyper, H, W] -> [B, out_channels, 4 H, 4 W]`."""
    middle = [partial_block(hyper) for _ in range(blocks)]
    return Transform([up(hyper, hyper), *middle, up(hyper, out_channels), partial_block(out_channels)])


class WindowAttention(nn.Module):
    """Attention of a query to a context inside windows that do not overlap, plus a 1x1 convolution of the query.

    No positional code. Where the sides are no multiples of the window's, the windows at the right and bottom border are
    smaller: what fills them up is hidden from every query.
    """

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.conv_q = nn.Conv2d(channels, channels, 1)
        self.conv_k = nn.Conv2d(channels, channels, 1)
        self.conv_v = nn.Conv2d(channels, channels, 1)
        self.conv_out = nn.Conv2d(channels, channels, 1)
        self.heads, self.window = heads, window

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """Two of `[B, C, H, W]` to one."""
        batch, channels, height, width = query.shape
        hidden = None
        if height % self.window or width % self.window:
            inside = torch.ones(1, 1, height, width, dtype=torch.bool, device=query.device)
            hidden = self._split(inside, 1).transpose(-1, -2).repeat(batch, 1, 1, 1)
        q, k, v = (
            self._split(each, self.heads) for each in (self.conv_q(query), self.conv_k(context), self.conv_v(context))
        )
        found = nn.functional.scaled_dot_product_attention(q, k, v, hidden)
        rows, columns = -(-height // self.window), -(-width // self.window)
        found = found.transpose(-1, -2).reshape(batch, rows, columns, channels, self.window, self.window)
        found = found.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
        result: Tensor = found[..., :height, :width] + self.conv_out(query)
        return result

    def _split(self, x: Tensor, heads: int) -> Tensor:
        """`[B, C, H, W]` to `[B * windows, heads, window**2, C / heads]`, filled up with zeros."""
        side = self.window
        x = nn.functional.pad(x, (0, -x.shape[-1] % side, 0, -x.shape[-2] % side))
        batch, channels, height, width = x.shape
        x = x.view(batch, channels, height // side, side, width // side, side).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(-1, heads, channels // heads, side * side).transpose(-1, -2)
