"""Small codecs, trainable on CPUs: without a hyperprior, with one for scales, with one for means and scales.

Sources of the entropy models: Ballé et al. 2018 (the first two), Minnen et al. 2018. The transforms are HPCM's with one
block at each resolution, in place of 5x5 convolutions and GDN.
"""

from __future__ import annotations

from abc import abstractmethod
from operator import attrgetter

import torch
from torch import Tensor

from bitdial.compression.models.blocks import analysis, hyper_analysis, hyper_synthesis, synthesis
from bitdial.compression.models.codec import CompressionModel, Read, coding_step
from bitdial.errors import BitdialError


def _check_channels(**channels: int) -> None:
    for name, number in channels.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 4 or number % 4:
            raise BitdialError(f"{name} must be a multiple of 4 from 4 up, got {number!r}; a block convolves a quarter")


class FactorizedPrior(CompressionModel):
    """A mean and a scale for each channel are all that is known of the latents.

    Args:
        channels: of the transforms.
        latent_channels: of y.

    Raises:
        BitdialError: channels that are no multiple of 4.
    """

    multiple = 16

    def __init__(self, channels: int = 32, latent_channels: int = 48) -> None:
        _check_channels(channels=channels, latent_channels=latent_channels)
        widths, blocks = (channels,) * 3, (1,) * 3
        g_a, g_s = (build(widths, blocks, latent_channels) for build in (analysis, synthesis))
        super().__init__(g_a, g_s, latent_channels)

    def hyper_latents(self, y: Tensor) -> None:
        """None."""

    def read_latents(self, read: Read, batch: int, rows: int, columns: int) -> Tensor:
        """One step."""
        step = self.prior_step("y", batch, rows, columns)
        return read(step) + step.means


class _Hyperprior(CompressionModel):
    """One step for z, from which the distributions of y come, one step for y."""

    _outputs: int
    """Numbers that the hyperprior tells of each latent."""

    def __init__(self, channels: int = 32, latent_channels: int = 48) -> None:
        _check_channels(channels=channels, latent_channels=latent_channels)
        widths, blocks = (channels,) * 3, (1,) * 3
        g_a, g_s = (build(widths, blocks, latent_channels) for build in (analysis, synthesis))
        super().__init__(g_a, g_s, channels)
        self.h_a = hyper_analysis(latent_channels, channels, 1)
        self.h_s = hyper_synthesis(channels, self._outputs * latent_channels, 1)

    def hyper_latents(self, y: Tensor) -> Tensor:
        """`[B, channels, H/4, W/4]` of y."""
        z: Tensor = self.h_a(y)
        return z

    def read_latents(self, read: Read, batch: int, rows: int, columns: int) -> Tensor:
        """Two steps."""
        hyper = self.prior_step("z", batch, rows // 4, columns // 4)
        scales, means = self._distributions(self.h_s(read(hyper) + hyper.means))
        return read(coding_step(1, scales, means, attrgetter("y"))) + means

    @abstractmethod
    def _distributions(self, told: Tensor) -> tuple[Tensor, Tensor]: ...


class ScaleHyperprior(_Hyperprior):
    """Side information z tells the scale of every latent; its mean is zero.

    Args:
        channels: of the transforms and of z.
        latent_channels: of y.

    Raises:
        BitdialError: channels that are no multiple of 4.
    """

    _outputs = 1

    def _distributions(self, told: Tensor) -> tuple[Tensor, Tensor]:
        return told, torch.zeros_like(told)


class MeanScaleHyperprior(_Hyperprior):
    """Side information z tells the scale and the mean of every latent.

    Args:
        channels: of the transforms and of z.
        latent_channels: of y.

    Raises:
        BitdialError: channels that are no multiple of 4.
    """

    _outputs = 2

    def _distributions(self, told: Tensor) -> tuple[Tensor, Tensor]:
        scales, means = told.chunk(2, 1)
        return scales, means
