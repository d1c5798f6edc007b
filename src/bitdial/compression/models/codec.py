"""What all codecs share: images to latents, and one way from symbols back, which the encoder takes as well.

Whoever decodes asks for symbols step by step (`CodingStep`): first those of the hyper-latents z (step 0), then those of
the latents y (from 1). Training, `bits`, an encoder and a decoder differ only in where the symbols come from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from bitdial.compression.likelihood import MIN_SCALE, likelihood, lower_bound
from bitdial.errors import BitdialError


class Latents(NamedTuple):
    """Of images with padded sides: y `[B, C, H/16, W/16]`, and z `[B, D, H/64, W/64]`, None without a hyperprior."""

    y: Tensor
    z: Tensor | None


@dataclass(frozen=True)
class CodingStep:
    """Symbols that are coded together: integers, each with a distribution of its own around zero.

    Attributes:
        number: 0 for z, from 1 for the steps of y.
        scales: `[B, C', H', W']`, at least 0.12: the generalised normal distribution's of shape 1.5.
        means: alike; a value is its symbol plus the mean.
        pick: the values of this step out of all latents, alike.
        by_channel: whether every channel has one scale and one mean, which are known before anything is decoded.
    """

    number: int
    scales: Tensor
    means: Tensor
    pick: Callable[[Latents], Tensor]
    by_channel: bool = False

    def symbols(self, latents: Latents) -> Tensor:
        """What an encoder writes for `latents`: whole numbers in floating point."""
        return (self.pick(latents) - self.means).round()


def coding_step(number: int, scales: Tensor, means: Tensor, pick: Callable[[Latents], Tensor]) -> CodingStep:
    """A step of scales as a network gives them."""
    return CodingStep(number, lower_bound(scales, MIN_SCALE), means, pick)


Read = Callable[[CodingStep], Tensor]
"""Gives the symbols of a step, in the shape of its scales."""


def check_finite(latents: Latents) -> Latents:
    """Refuse latents that no weights in order give for finite images."""
    if not all(each.isfinite().all() for each in latents if each is not None):
        raise BitdialError(
            "latents must be finite, got NaN or infinity from finite images; the weights have diverged or are "
            "damaged, so load sound ones"
        )
    return latents


class Coded(NamedTuple):
    """Images through a codec.

    Attributes:
        images: the reconstruction `[B, 3, H, W]`; values can lie outside of 0..1 until a picture is made of them.
        z_bits: `[B]`.
        y_bits: `[B, steps]`.
    """

    images: Tensor
    z_bits: Tensor
    y_bits: Tensor

    @property
    def bits_per_pixel(self) -> Tensor:
        """Of all images together, a 0-dim tensor."""
        batch, _, height, width = self.images.shape
        return (self.z_bits.sum() + self.y_bits.sum()) / (batch * height * width)


class BitCounts(TypedDict):
    """Bits of images: z, y, and y by coding steps."""

    z: float
    y: float
    steps: list[float]


class CompressionModel(nn.Module, ABC):
    """A codec that can be trained; images are `[B, 3, H, W]` of 0..1 and any size.

    They are padded at the right and bottom to a multiple of `multiple`, by repeating the border; whoever decodes gives
    the true size. No auxiliary loss: the prior without context has a learned mean and scale for each channel.

    Args:
        g_a, g_s: images to latents, and back.
        channels: of the latents that are coded without context: z, or y where there is no z.
    """

    multiple = 64
    """Of what sides are padded to."""
    steps = 1
    """Coding steps of y."""

    def __init__(self, g_a: nn.Module, g_s: nn.Module, channels: int) -> None:
        super().__init__()
        self.means_hyper = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scales_hyper = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.g_a, self.g_s = g_a, g_s
        weights = [name for name, _ in g_s.named_parameters("g_s") if name.endswith(".weight")]
        self.last_layers = tuple(name.removesuffix(".weight") for name in weights[-1:])
        """For `bitdial.quantize`: images come out of g_s, though the prior is defined after it."""

    @abstractmethod
    def hyper_latents(self, y: Tensor) -> Tensor | None:
        """The z of y, or None."""

    @abstractmethod
    def read_latents(self, read: Read, batch: int, rows: int, columns: int) -> Tensor:
        """Return y as a decoder knows it, `[batch, C, rows, columns]`, with symbols from `read`."""

    def forward(self, images: Tensor) -> Coded:
        """Reconstruct and count bits; in training, symbols pass gradients on and noise stands for rounding in the bits.

        Raises:
            BitdialError: images that the model cannot take.
        """
        self._check(images)
        y, z_bits, y_bits = self._code(self._latents(images), noise=self.training)
        return Coded(self.synthesise(y, *images.shape[-2:]), z_bits, y_bits)

    @torch.no_grad()
    def bits(self, images: Tensor) -> BitCounts:
        """Bits of rounded latents, of all images together: `{"z": float, "y": float, "steps": [float, ...]}`.

        Raises:
            BitdialError: as `analyse`.
        """
        _, z_bits, y_bits = self._code(self.analyse(images), noise=False)
        return {"z": z_bits.sum().item(), "y": y_bits.sum().item(), "steps": y_bits.sum(0).tolist()}

    def analyse(self, images: Tensor) -> Latents:
        """The latents that are coded for images.

        Raises:
            BitdialError: images that the model cannot take, or images or latents with a value that is not finite.
        """
        self._check(images)
        if not images.isfinite().all():
            raise BitdialError("images must be finite, got NaN or infinity among the values; leave such images out")
        return check_finite(self._latents(images))

    def decode(self, read: Read, height: int, width: int, batch: int = 1) -> Tensor:
        """Reconstruct images `[batch, 3, height, width]`; values can lie outside of 0..1.

        Args:
            read: gives the symbols of each step; zeros for those that are missing make a preview.
            height, width: the true size.
            batch: number of images.

        Raises:
            BitdialError: a size or a number below 1, or symbols that have not the shape of their step.
        """
        return self.synthesise(self.decode_latents(read, height, width, batch), height, width)

    def decode_latents(self, read: Read, height: int, width: int, batch: int = 1) -> Tensor:
        """The first half of `decode`: y `[batch, C, H/16, W/16]`."""
        for name, number in (("height", height), ("width", width), ("batch", batch)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise BitdialError(f"{name} must be a whole number from 1 up, got {number!r}; give the images' own")

        def checked(step: CodingStep) -> Tensor:
            symbols = read(step)
            if not isinstance(symbols, Tensor) or symbols.shape != step.scales.shape:
                got = list(symbols.shape) if isinstance(symbols, Tensor) else type(symbols).__name__
                raise BitdialError(
                    f"symbols of step {step.number} must be a tensor {list(step.scales.shape)}, got {got}; "
                    "return them in the shape of the step's scales"
                )
            return symbols.to(step.means)

        rows, columns = (-(-side // self.multiple) * self.multiple // 16 for side in (height, width))
        return self.read_latents(checked, batch, rows, columns)

    def synthesise(self, y: Tensor, height: int, width: int) -> Tensor:
        """The second half of `decode`: images `[B, 3, height, width]`, cut to their true size."""
        found: Tensor = self.g_s(y)[..., :height, :width]
        return found

    def prior_step(self, name: Literal["y", "z"], batch: int, rows: int, columns: int) -> CodingStep:
        """The step of all y or z, whose distributions are known before anything is decoded."""
        shape = (batch, -1, rows, columns)
        scales, means = (each.expand(shape) for each in (self.scales_hyper, self.means_hyper))
        return replace(coding_step("zy".index(name), scales, means, attrgetter(name)), by_channel=True)

    def _latents(self, images: Tensor) -> Latents:
        height, width = images.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        y = self.g_a(nn.functional.pad(images, padding, mode="replicate"))
        return Latents(y, self.hyper_latents(y))

    def _code(self, latents: Latents, noise: bool) -> tuple[Tensor, Tensor, Tensor]:
        """What a decoder knows of y `[B, C, H, W]`; bits of z `[B]` and of the steps of y `[B, steps]`."""
        bits = {}

        def read(step: CodingStep) -> Tensor:
            residual = step.pick(latents) - step.means
            symbols = residual + (residual.round() - residual).detach()
            dtype = torch.promote_types(residual.dtype, torch.float32)  # narrower ones have no fine enough numbers
            counted = (residual if noise else symbols).to(dtype)
            if noise:
                counted = counted + torch.rand_like(counted) - 0.5
            bits[step.number] = -likelihood(counted, step.scales.to(dtype)).log2().flatten(1).sum(1)
            return symbols

        y = self.read_latents(read, len(latents.y), *latents.y.shape[-2:])
        z_bits = bits.pop(0) if 0 in bits else torch.zeros_like(bits[1])
        return y, z_bits, torch.stack([bits[number] for number in sorted(bits)], 1)

    def _check(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise BitdialError(f"images must be a tensor [B, 3, H, W], got {type(images).__name__}; make one of them")
        if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise BitdialError(
                f"images must be [B, 3, H, W] with at least one image and one pixel, got {list(images.shape)}; "
                "a single image needs images[None], a grey one images.expand(-1, 3, -1, -1)"
            )
        own = self.means_hyper
        if not images.is_floating_point():
            raise BitdialError(f"images must be floats of 0..1, got {images.dtype}; divide bytes by 255")
        if images.device != own.device:
            raise BitdialError(f"images must be on the model's device {own.device}, got {images.device}; move them")
        if images.dtype != own.dtype and not torch.is_autocast_enabled(images.device.type):
            raise BitdialError(
                f"images must have the model's dtype {own.dtype}, got {images.dtype}; convert one of the two"
            )
