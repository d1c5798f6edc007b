"""HPCM: a hyperprior, and latents in eleven steps over three scales, each with everything before it as its context.

Source: Li et al., "Learned Image Compression with Hierarchical Progressive Context Modeling", ICCV 2025.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitdial.compression.models.blocks import (
    WindowAttention,
    analysis,
    depthwise_block,
    hyper_analysis,
    hyper_synthesis,
    synthesis,
)
from bitdial.compression.models.codec import CompressionModel, Read, coding_step
from bitdial.compression.models.steps import (
    FIRST_STEP,
    PATTERNS,
    RELEASED_TO_SCALE_1,
    TO_SCALE_1,
    TO_SCALE_2,
    at_scale,
    places,
    put,
)
from bitdial.errors import BitdialError, suggest

_WINDOWS = {1: 4, 2: 8, 3: 8}


@dataclass(frozen=True)
class _Size:
    widths: tuple[int, int, int]
    blocks: tuple[int, int, int]
    latents: int
    hyper: int
    hyper_blocks: int
    heads: int
    coarse: tuple[int, int]
    """Blocks of the prior of scales 1 and 2 before and behind the adaptive vector."""
    fine: tuple[int, int]
    """The same of scale 3's."""


SIZES = {
    "tiny": _Size((24, 48, 96), (1, 1, 1), 64, 48, 1, 8, (1, 1), (1, 1)),
    "base": _Size((96, 192, 384), (2, 2, 4), 320, 256, 3, 32, (2, 1), (3, 2)),
    "large": _Size((96, 192, 384), (2, 2, 8), 320, 256, 3, 32, (2, 2), (4, 3)),
}


def _refill(x: Tensor, taken: Tensor, filled: Tensor) -> Tensor:
    """Move what is outside of `taken`, in order of rows, to what is outside of `filled`; both leave three quarters."""
    rest = 3 * x.shape[-2] * x.shape[-1] // 4
    source, target = (
        mask.flatten(2).byte().argsort(stable=True)[..., :rest].expand(len(x), -1, -1) for mask in (taken, filled)
    )
    return torch.zeros_like(x).flatten(2).scatter(2, target, x.flatten(2).gather(2, source)).view_as(x)


class Prior(nn.Module):
    """Context and what is decoded to scales and means; a vector of each step is multiplied in the middle."""

    def __init__(self, latents: int, before: int, behind: int) -> None:
        super().__init__()
        self.branch_1 = nn.Sequential(*(depthwise_block(3 * latents) for _ in range(before)))
        last = nn.Conv2d(3 * latents, 2 * latents, 1)
        self.branch_2 = nn.Sequential(*(depthwise_block(3 * latents) for _ in range(behind)), last)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """`[B, 3 C, H, W] -> [B, 2 C, H, W]`: scales, then means."""
        found: Tensor = self.branch_2(self.branch_1(x) * vector)
        return found


class HPCM(CompressionModel):
    """The codec with hierarchical progressive context.

    Args:
        size: "tiny" for CPUs and tests; the published "base" (68.5 million parameters) and "large" (89.7).
        compat: misplace hyper-parameters at scale 2 as the released code does, whose weights need that.
        attention: False carries the prior's output on as context ("PhiContext"), without attention to the old one.

    Raises:
        BitdialError: an unknown size, or a switch that is neither True nor False.
    """

    steps = len(PATTERNS)

    def __init__(self, size: str = "base", compat: bool = False, *, attention: bool = True) -> None:
        if not isinstance(size, str) or size not in SIZES:
            raise BitdialError(f"size must be one of {', '.join(SIZES)}, got {size!r}{suggest(str(size), SIZES)}")
        for name, switch in (("compat", compat), ("attention", attention)):
            if not isinstance(switch, bool):
                raise BitdialError(f"{name} must be True or False, got {switch!r}")
        shape = SIZES[size]
        latents = shape.latents
        g_a, g_s = (build(shape.widths, shape.blocks, latents) for build in (analysis, synthesis))
        super().__init__(g_a, g_s, shape.hyper)
        self.compat = compat
        self.h_a = hyper_analysis(latents, shape.hyper, shape.hyper_blocks)
        self.h_s = hyper_synthesis(shape.hyper, 2 * latents, shape.hyper_blocks)

        def adaptors(count: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(3 * latents, 3 * latents, 1) for _ in range(count))

        # Names of modules are those of the published weights.
        self.y_spatial_prior_adaptor_list_s1 = adaptors(1)
        self.y_spatial_prior_adaptor_list_s2 = adaptors(3)
        self.y_spatial_prior_adaptor_list_s3 = adaptors(6)
        self.y_spatial_prior_s1_s2 = Prior(latents, *shape.coarse)
        self.y_spatial_prior_s3 = Prior(latents, *shape.fine)
        self.adaptive_params_list = nn.ParameterList(torch.ones(1, 3 * latents, 1, 1) for _ in range(self.steps - 1))
        if attention:
            for scale, window in _WINDOWS.items():
                self.add_module(f"attn_s{scale}", WindowAttention(2 * latents, shape.heads, window))
        self.attention = attention
        self.context_net = nn.ModuleList(nn.Conv2d(2 * latents, 2 * latents, 1) for _ in range(2))

    def hyper_latents(self, y: Tensor) -> Tensor:
        """`[B, D, H/4, W/4]` of y."""
        z: Tensor = self.h_a(y)
        return z

    def read_latents(self, read: Read, batch: int, rows: int, columns: int) -> Tensor:
        """One step for z, eleven for y."""
        first = self.prior_step("z", batch, rows // 4, columns // 4)
        hyper = self.h_s(read(first) + first.means)
        context = at_scale(hyper, 1, parts=2)
        known = self._step(1, context, read)
        adaptors = {
            1: self.y_spatial_prior_adaptor_list_s1,
            2: self.y_spatial_prior_adaptor_list_s2,
            3: self.y_spatial_prior_adaptor_list_s3,
        }
        for number in range(2, self.steps + 1):
            scale = PATTERNS[number - 1].scale
            if number == FIRST_STEP[scale]:
                known, context = self._enter(scale, known, context, hyper)
            prior = self.y_spatial_prior_s3 if scale == 3 else self.y_spatial_prior_s1_s2
            # Of three or six, the first step takes the last: the order that the published weights were trained in.
            adaptor = adaptors[scale][number - FIRST_STEP[scale] - 1]
            found = prior(adaptor(torch.cat((context, known), 1)), self.adaptive_params_list[number - 2])
            known = known + self._step(number, found, read)
            if number < self.steps:
                context = self.get_submodule(f"attn_s{scale}")(found, context) if self.attention else found
        return known

    def _step(self, number: int, found: Tensor, read: Read) -> Tensor:
        """The values of a step at their places, zeros elsewhere; `found` are scales and means of all places."""
        pattern = PATTERNS[number - 1]
        scales, means = (pattern.pack(each) for each in found.chunk(2, 1))
        step = coding_step(number, scales, means, lambda latents: pattern.pack(at_scale(latents.y, pattern.scale)))
        return pattern.unpack(read(step) + means)

    def _enter(self, scale: int, known: Tensor, context: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor]:
        """What is known and the context at twice the resolution, with hyper-parameters where nothing is coded yet."""
        phases = TO_SCALE_1 if scale == 2 else TO_SCALE_2
        hyper = at_scale(hyper, scale, parts=2)
        coded = places(hyper, phases * 2)
        if self.compat and scale == 2:
            missed = places(hyper, RELEASED_TO_SCALE_1 * 2)
            hyper = _refill(hyper, missed, coded)
        context = torch.where(coded, put(context, phases * 2), hyper)
        return put(known, phases), self.context_net[scale - 2](context)
