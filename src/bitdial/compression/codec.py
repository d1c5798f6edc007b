"""A trained network as a codec of pictures: pixels to the bytes of a file, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bitdial.compression.arrays import check_whole
from bitdial.compression.coder import decode, encode
from bitdial.compression.container import MAX_PIXELS, DamagedFile, File, model_id, read, symbols_crc, write
from bitdial.compression.integer import decode_in_whole_numbers
from bitdial.compression.likelihood import MIN_SCALE
from bitdial.compression.models import CodingStep, CompressionModel
from bitdial.compression.pictures import Picture
from bitdial.compression.tables import Tables, channel_tables, estimate_bits, scale_indexes, scale_levels, scale_tables
from bitdial.errors import BitdialError

ARITHMETICS = ("integer", "float64")


class _Coded(NamedTuple):
    """The symbols of a step, and what they are coded by."""

    symbols: Tensor
    indexes: Tensor
    tables: Tables


class Codec:
    """Compresses pictures with a trained network, and gives back what the network itself makes of them, pixel by pixel.

    The network computes in float64 on the CPU, one picture at a time. In float32 what it says of a symbol differs
    between numbers of threads, and one symbol that is decoded by another table than it was coded by ruins a picture; in
    float64 the last bits may, which seldom makes it another table, and then the checksum of the symbols tells.
    Where the decoder's side of the network is quantized throughout, it computes in whole numbers, and there can be none
    (`bitdial.compression.integer`). Files of the one are not those of the other.

    Args:
        model: the network; a copy is taken, at the widths that it has.
        arithmetic: "integer" or "float64"; None: whole numbers where the network allows it.

    Attributes:
        arithmetic: the one that is used.

    Raises:
        BitdialError: it is none, its weights are not finite, or "integer" is asked for and a part of it (which the
            message names) cannot compute in whole numbers.
    """

    def __init__(self, model: CompressionModel, arithmetic: str | None = None) -> None:
        if not isinstance(model, CompressionModel):
            raise BitdialError(
                f"a codec is made of a network of bitdial.compression.models, got {type(model).__name__}; "
                "train one of those"
            )
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
        self.arithmetic = ARITHMETICS[state is None]
        self.model = own.double()
        self._levels = scale_levels()
        self._by_scale = scale_tables(self._levels)
        self._by_channel = channel_tables(self.model.scales_hyper.flatten().clamp_min(MIN_SCALE))
        self.model_id = model_id(state or self.model.state_dict(), [self._by_scale, self._by_channel])
        """What files of this codec name it by."""

    def compress(self, pixels: Tensor, mode: str = "RGB") -> bytes:
        """Return the bytes of a file.

        Args:
            pixels: uint8 ``[3, H, W]``, as `bitdial.compression.pictures.read_picture` gives them.
            mode: "L" for a picture that is to come back grey.

        Raises:
            BitdialError: no such pixels, or a network whose weights have diverged.
        """
        steps = self._encoded(pixels)
        chunks = tuple(encode(*step) for step in steps)
        height, width = pixels.shape[-2:]
        return write(File(self.model_id, width, height, mode, chunks, symbols_crc(step.symbols for step in steps)))

    def estimated_size(self, pixels: Tensor) -> float:
        """The bytes that `compress` will need: what the tables say of the symbols, and the frame of the file."""
        steps = self._encoded(pixels)
        empty = write(File(self.model_id, 1, 1, "RGB", (b"",) * len(steps), 0))
        return len(empty) + sum(estimate_bits(*step) for step in steps) / 8

    def reconstruct(self, pixels: Tensor) -> Tensor:
        """What a picture is after compression, uint8 ``[3, H, W]``, without coding it."""
        coded = iter(self._encoded(pixels))
        return self._pixels(lambda step: next(coded).symbols, *pixels.shape[-2:])

    def decompress(
        self, data: bytes, *, preview: int | None = None, max_pixels: int = MAX_PIXELS, path: str = "this file"
    ) -> Picture:
        """Return the picture of a file.

        Args:
            data: all its bytes.
            preview: how many coding steps of the picture to decode; the means of the others stand for them. None: all.
            max_pixels: the largest picture that there is memory for.
            path: what messages call the file.

        Raises:
            DamagedFile: the file is damaged, or this machine computes other entropy parameters than the encoder's.
            BitdialError: another kind of file, of another model, or a larger picture.
        """
        file = read(data, model_id=self.model_id, max_pixels=max_pixels, path=path)
        if preview is not None:
            check_whole("preview", preview, 1, self.model.steps)
        chunks, found = iter(file.chunks), []

        def symbols(step: CodingStep) -> Tensor:
            if preview is not None and step.number > preview:
                return torch.zeros_like(step.scales)
            values = decode(next(chunks), *self._tables(step))
            found.append(values)
            return torch.from_numpy(values)

        try:
            pixels = self._pixels(symbols, file.height, file.width)
            left = preview is None and next(chunks, None) is not None
        except (BitdialError, StopIteration) as error:  # every byte is as it was written
            raise DamagedFile(
                f"{path} cannot be decoded here, though its bytes are as they were written ({error}): this machine "
                "computes other entropy parameters than the one that encoded; use the same torch, on the CPU"
            ) from error
        if left:
            raise DamagedFile(f"{path} must have {self.model.steps} coding steps at most, got more; compress it again")
        if preview is None:
            file.check(found)
        return Picture(pixels, file.mode)

    def _encoded(self, pixels: Tensor) -> list[_Coded]:
        """What every step codes, in the order of coding, found on the way that decoding takes."""
        sound = isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.ndim == 3 and pixels.numel()
        if not sound or len(pixels) != 3:
            got = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
            raise BitdialError(f"pixels must be a uint8 tensor [3, H, W], got {got}; read_picture gives one")
        latents = self.model.analyse(pixels[None].cpu().double() / 255)
        steps: list[_Coded] = []

        def note(step: CodingStep) -> Tensor:
            steps.append(_Coded(step.symbols(latents), *self._tables(step)))
            return steps[-1].symbols

        self.model.eval()  # the next call is the first of a pass, wherever the last one failed (`ranges_per_call`)
        with torch.no_grad():
            self.model.decode_latents(note, *pixels.shape[-2:])
        return steps

    def _tables(self, step: CodingStep) -> tuple[Tensor, Tables]:
        """Which table each symbol of a step is coded by."""
        if not step.by_channel:
            return scale_indexes(step.scales, self._levels), self._by_scale
        channels = torch.arange(step.scales.shape[1])
        return channels.view(1, -1, 1, 1).expand(step.scales.shape), self._by_channel

    @torch.no_grad()
    def _pixels(self, symbols: Callable[[CodingStep], Tensor], height: int, width: int) -> Tensor:
        self.model.eval()  # as in _encoded
        images = self.model.decode(symbols, height, width)
        return (images[0].clamp(0, 1) * 255).round().to(torch.uint8)
