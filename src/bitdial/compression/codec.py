"""A trained network as a codec of pictures: pixels to the bytes of a file, and back."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from bitdial.compression.coding import container, tiles
from bitdial.compression.coding.arrays import check_whole, whole_numbers
from bitdial.compression.coding.coder import Decoder, encode_parts
from bitdial.compression.coding.container import MAX_PIXELS, TILE, DamagedFile, File, model_id, symbols_crc, write
from bitdial.compression.coding.integer import decode_in_whole_numbers
from bitdial.compression.coding.tables import (
    Tables,
    channel_tables,
    estimate_bits,
    scale_indexes,
    scale_levels,
    scale_tables,
)
from bitdial.compression.likelihood import MIN_SCALE
from bitdial.compression.models import CodingStep, CompressionModel
from bitdial.compression.models.codec import Read
from bitdial.compression.pictures import Picture
from bitdial.errors import BitdialError

ARITHMETICS = ("integer", "float64")
Progress = Callable[[int, int], object]
"""Is told after every tile how many parts of the work are done, and how many there are."""


class _Step(NamedTuple):
    """The symbols of a step in one tile, and what they are coded by."""

    symbols: NDArray[Any]
    indexes: Tensor
    tables: Tables


class Coded:
    """A picture through a codec, as `Codec.code` gives it: its file, its size and what becomes of it, coded once."""

    def __init__(self, codec: Codec, size: tuple[int, int], steps: list[list[_Step]], y: Tensor) -> None:
        self._codec, self._size, self._steps, self._y = codec, size, steps, y

    def data(self, mode: str = "RGB") -> bytes:
        """The bytes of the file; `mode` is "L" for a picture that is to come back grey."""
        chunks = tuple(
            encode_parts([(part.symbols, part.indexes) for part in parts], parts[0].tables)
            for parts in zip(*self._steps, strict=True)
        )
        crc = symbols_crc(step.symbols for steps in self._steps for step in steps)
        height, width = self._size
        return write(File(self._codec.model_id, width, height, mode, chunks, crc, self._codec.tile))

    def estimated_size(self) -> float:
        """The bytes that the file will need: what the tables say of the symbols, and the frame of the file."""
        empty = write(File(self._codec.model_id, 1, 1, "RGB", (b"",) * len(self._steps[0]), 0))
        return len(empty) + sum(estimate_bits(*step) for steps in self._steps for step in steps) / 8

    def pixels(self) -> Tensor:
        """What the picture is after compression, uint8 ``[3, H, W]``."""
        return tiles.synthesise(self._codec.model, self._y, *self._size, self._codec.tile)


class Codec:
    """Compresses pictures with a trained network, and gives back what the network itself makes of them, pixel by pixel.

    The network computes in float64 on the CPU, one tile of a picture at a time. In float32 what it says of a symbol
    differs between numbers of threads, and one symbol that is decoded by another table than it was coded by ruins a
    picture; in float64 the last bits may, which seldom makes it another table, and then the checksum of the symbols
    tells. Where the decoder's side of the network is quantized throughout, it computes in whole numbers, and there can
    be none (`bitdial.compression.coding.integer`). Files of the one are not those of the other.

    Args:
        model: the network; a copy is taken, at the widths that it has.
        tables: those of its file, see the attribute; None: made anew, which another machine does a little differently.
        arithmetic: "integer" or "float64"; None: whole numbers where the network allows it.
        tile: the side of the tiles of pictures that are compressed, in pixels; a file says which its encoder had.

    Attributes:
        model_id: what files of this codec name it by.
        tables: what symbols are coded by: a table for each level of scales, and one for each channel without context.
        arithmetic: the one that is used.

    Raises:
        BitdialError: it is none, its weights are not finite, the tables are not its own, no such tile, or "integer" is
            asked for and a part of it (which the message names) cannot compute in whole numbers.
    """

    def __init__(
        self,
        model: CompressionModel,
        tables: tuple[Tables, Tables] | None = None,
        *,
        arithmetic: str | None = None,
        tile: int = TILE,
    ) -> None:
        if not isinstance(model, CompressionModel):
            raise BitdialError(
                f"a codec is made of a network of bitdial.compression.models, got {type(model).__name__}; "
                "train one of those"
            )
        container.check_tile(tile, model.multiple)
        for name, value in model.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise BitdialError(f"weights must be finite, got NaN or infinity in {name}; load sound ones")
        if arithmetic not in (None, *ARITHMETICS):
            raise BitdialError(f"arithmetic must be {' or '.join(ARITHMETICS)}, got {arithmetic!r}; None chooses")
        try:
            own = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        except RuntimeError as error:  # a weight that hooks compute has a graph
            raise BitdialError(
                "a codec needs a network that can be copied, got one with weights that hooks compute (pruning, the old "
                "weight_norm); make them permanent, with torch.nn.utils.prune.remove or remove_weight_norm"
            ) from error
        own = own.to(torch.promote_types(own.means_hyper.dtype, torch.float32))  # narrower weights lie on no grid
        state = None
        if arithmetic != "float64":
            try:
                state = decode_in_whole_numbers(own)
            except BitdialError:
                if arithmetic is not None:
                    raise
        self.arithmetic, self.model, self.tile = ARITHMETICS[state is None], own.double(), tile
        tiles.compute_by_rows(self.model)
        self._levels = scale_levels()
        scales = self.model.scales_hyper.flatten().clamp_min(MIN_SCALE)
        self.tables = tables or (scale_tables(self._levels), channel_tables(scales))
        if [*map(len, self.tables)] != [len(self._levels), len(scales)]:
            raise BitdialError(
                f"tables must be {len(self._levels)} by scale and {len(scales)} by channel, got "
                f"{' and '.join(str(len(each)) for each in self.tables)}; give those of the network's own file"
            )
        self.model_id = model_id(state or self.model.state_dict(), self.tables)

    def compress(self, pixels: Tensor, mode: str = "RGB", *, progress: Progress | None = None) -> bytes:
        """Return the bytes of a file.

        Args:
            pixels: uint8 ``[3, H, W]``, as `bitdial.compression.pictures.read_picture` gives them.
            mode: "L" for a picture that is to come back grey.
            progress: is told of every tile.

        Raises:
            BitdialError: no such pixels, or a network whose weights have diverged.
        """
        return self.code(pixels, progress=progress).data(mode)

    def estimated_size(self, pixels: Tensor) -> float:
        """The bytes that `compress` will need: what the tables say of the symbols, and the frame of the file."""
        return self.code(pixels).estimated_size()

    def reconstruct(self, pixels: Tensor) -> Tensor:
        """What a picture is after compression, uint8 ``[3, H, W]``, without coding it."""
        return self.code(pixels).pixels()

    @torch.no_grad()
    def code(self, pixels: Tensor, *, progress: Progress | None = None) -> Coded:
        """What `compress`, `estimated_size` and `reconstruct` have in common, for who wants more than one of them.

        Raises:
            BitdialError: as `compress`.
        """
        sound = isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.ndim == 3 and pixels.numel()
        if not sound or len(pixels) != 3:
            got = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
            raise BitdialError(f"pixels must be a uint8 tensor [3, H, W], got {got}; read_picture gives one")
        coded: list[list[_Step]] = []

        def reader(tile: tiles.Tile) -> Read:
            latents = tiles.analyse(self.model, pixels, tile)
            coded.append([])

            def note(step: CodingStep) -> Tensor:
                symbols = step.symbols(latents)
                coded[-1].append(_Step(whole_numbers("symbols", symbols), *self._tables(step)))
                return symbols

            return note

        self.model.eval()  # the next call is the first of a pass, wherever the last one failed (`ranges_per_call`)
        height, width = pixels.shape[-2:]
        done = _counter(progress, len(tiles.tiles(height, width, self.tile)))
        y = tiles.decode_latents(self.model, reader, height, width, self.tile, done)
        return Coded(self, (height, width), coded, y)

    @torch.no_grad()
    def decompress(
        self,
        data: bytes,
        *,
        preview: int | None = None,
        max_pixels: int = MAX_PIXELS,
        path: str = "this file",
        progress: Progress | None = None,
    ) -> Picture:
        """Return the picture of a file.

        Args:
            data: all its bytes.
            preview: how many coding steps of the picture to decode; the means of the others stand for them. None: all.
            max_pixels: the largest picture that there is memory for.
            path: what messages call the file.
            progress: is told of every tile twice: when its symbols are decoded, and when its pixels are computed.

        Raises:
            DamagedFile: the file is damaged, or this machine computes other entropy parameters than the encoder's.
            BitdialError: another kind of file, of another model, or a larger picture.
        """
        file = container.read(data, model_id=self.model_id, max_pixels=max_pixels, path=path)
        if preview is not None:
            check_whole("preview", preview, 1, self.model.steps)
        with _decoding(path):
            decoders = [Decoder(chunk) for chunk in file.chunks]
        found: list[NDArray[Any]] = []
        used = 0

        def reader(tile: tiles.Tile) -> Read:
            nonlocal used
            used = 0

            def symbols(step: CodingStep) -> Tensor:
                nonlocal used
                if preview is not None and step.number > preview:
                    return torch.zeros_like(step.scales)
                with _decoding(path):
                    if used == len(decoders):
                        raise BitdialError(f"no chunk for step {step.number}")
                    found.append(decoders[used].read(*self._tables(step)))
                used += 1
                return torch.from_numpy(found[-1])

            return symbols

        self.model.eval()  # as in code
        size = file.height, file.width
        done = _counter(progress, 2 * len(tiles.tiles(*size, file.tile)))
        y = tiles.decode_latents(self.model, reader, *size, file.tile, done)
        with _decoding(path):
            for decoder in decoders[:used]:
                decoder.finish()
        if preview is None:
            if used < len(decoders):
                raise DamagedFile(f"{path} must have {used} chunks, got {len(decoders)}; compress it again")
            file.check(found)
        return Picture(tiles.synthesise(self.model, y, *size, file.tile, done), file.mode)

    def _tables(self, step: CodingStep) -> tuple[Tensor, Tables]:
        """Which table each symbol of a step is coded by."""
        if not step.by_channel:
            return scale_indexes(step.scales, self._levels), self.tables[0]
        channels = torch.arange(step.scales.shape[1])
        return channels.view(1, -1, 1, 1).expand(step.scales.shape), self.tables[1]


@contextmanager
def _decoding(path: str) -> Iterator[None]:
    try:
        yield
    except BitdialError as error:  # every byte is as it was written
        raise DamagedFile(
            f"{path} cannot be decoded here, though its bytes are as they were written ({error}): this machine "
            "computes other entropy parameters than the one that encoded; use the same torch, on the CPU"
        ) from error


def _counter(progress: Progress | None, parts: int) -> tiles.Done:
    """What to call after each of so many parts."""
    numbers = itertools.count(1)
    return lambda: progress(next(numbers), parts) if progress is not None else None
