"""Large pictures in tiles: a transform sees as much around a tile as it reaches, so that tiles leave no seams.

Only the entropy parameters of a tile know nothing of other tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bitdial.compression.models import CompressionModel, Latents
from bitdial.compression.models.blocks import Residual
from bitdial.compression.models.codec import Read, check_finite

_STRIDE = 16  # pixels to a latent
_ELEMENTS = 2**16
Done = Callable[[], object]
"""Is called after each tile."""


class Tile(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def tiles(height: int, width: int, side: int) -> list[Tile]:
    """The tiles of a picture, row by row; those at the right and at the bottom are what is left."""
    return [
        Tile(top, left, min(side, height - top), min(side, width - left))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def reach(transform: nn.Module) -> int:
    """How far beyond an edge of its output a chain of convolutions sees, in its input."""
    found = 0
    for layer in reversed(list(transform.modules())):
        if isinstance(layer, nn.Conv2d):
            found = found * layer.stride[0] + int(layer.padding[0])
        elif isinstance(layer, nn.ConvTranspose2d):
            found = -(-(found + int(layer.padding[0])) // layer.stride[0])
    return found


class _ByRows(nn.Sequential):
    """The branch of a `Residual`: what follows its first layer sees one position alone, and takes some rows at a time.

    The tensor in its middle is the widest of all; in parts it fits a processor's cache.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = self[0](x)
        rows = max(1, _ELEMENTS // x[0, :, 0].numel())
        return torch.cat([self[3](self[2](self[1](part))) for part in x.split(rows, 2)], 2)  # type: ignore[no-untyped-call]


def compute_by_rows(model: CompressionModel) -> None:
    """Have the blocks of both transforms of a model, which trains no more, take less memory and time; names stay.

    Not those of a prior, whose layers may have a range for each call: several calls for one would take those of others.
    """
    for block in chain(model.g_a.modules(), model.g_s.modules()):
        if isinstance(block, Residual):
            block.branch = _ByRows(*block.branch)


def analyse(model: CompressionModel, pixels: Tensor, tile: Tile) -> Latents:
    """The latents of a tile of a picture: y as of the whole picture, z of the tile alone.

    Args:
        model: in float64.
        pixels: uint8 ``[3, H, W]``, the whole picture.
        tile: one of its tiles.

    Raises:
        BitdialError: latents that are not finite.
    """
    rows, columns = _spans(model, tile, pixels.shape[-2:], halo=-(-reach(model.g_a) // _STRIDE))
    part = pixels[:, rows.begin * _STRIDE : rows.end * _STRIDE, columns.begin * _STRIDE : columns.end * _STRIDE]
    image = part.cpu().double()[None] / 255
    height, width = ((span.end - span.begin) * _STRIDE for span in (rows, columns))
    padding = (0, width - part.shape[-1], 0, height - part.shape[-2])
    y = model.g_a(nn.functional.pad(image, padding, mode="replicate"))[..., rows.inside, columns.inside].contiguous()
    return check_finite(Latents(y, model.hyper_latents(y)))


def decode_latents(
    model: CompressionModel, reader: Callable[[Tile], Read], height: int, width: int, side: int, done: Done
) -> Tensor:
    """The y of a whole picture, tile after tile; `reader` gives what reads the symbols of a tile."""
    found = None
    for tile in tiles(height, width, side):
        part = model.decode_latents(reader(tile), tile.height, tile.width)
        if found is None:
            found = part.new_empty(*part.shape[:2], *(_latents(model, whole) for whole in (height, width)))
        rows, columns = _spans(model, tile, (height, width), halo=0)
        found[..., rows.begin : rows.end, columns.begin : columns.end] = part
        done()
    assert found is not None
    return found


def synthesise(
    model: CompressionModel, y: Tensor, height: int, width: int, side: int, done: Done = lambda: None
) -> Tensor:
    """The pixels of a whole picture, uint8 ``[3, height, width]``, out of its latents, tile after tile."""
    found = torch.empty(3, height, width, dtype=torch.uint8)
    for tile in tiles(height, width, side):
        rows, columns = _spans(model, tile, (height, width), halo=reach(model.g_s))
        top, left = rows.inside.start * _STRIDE, columns.inside.start * _STRIDE
        part = y[..., rows.begin : rows.end, columns.begin : columns.end].contiguous()
        image = model.synthesise(part, top + tile.height, left + tile.width)[0, :, top:, left:]
        place = found[:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
        place.copy_((image.clamp(0, 1) * 255).round())
        done()
    return found


class _Span(NamedTuple):
    """Latents along one side of a picture: from `begin` to `end`, and where among them those of a tile are."""

    begin: int
    end: int
    inside: slice


def _spans(model: CompressionModel, tile: Tile, size: tuple[int, ...], halo: int) -> tuple[_Span, _Span]:
    """A tile's rows and columns of latents, with so many around it as the picture has."""

    def span(start: int, length: int, whole: int) -> _Span:
        own, count = start // _STRIDE, _latents(model, length)
        begin = max(0, own - halo)
        return _Span(begin, min(_latents(model, whole), own + count + halo), slice(own - begin, own - begin + count))

    return span(tile.top, tile.height, size[0]), span(tile.left, tile.width, size[1])


def _latents(model: CompressionModel, side: int) -> int:
    """How many there are along a side of so many pixels."""
    return -(-side // model.multiple) * model.multiple // _STRIDE
