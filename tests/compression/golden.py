"""Weights and a picture that are formulas, so that a forward pass can be compared between implementations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitdial.compression.models import HPCM


def _numbers(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64)


@torch.no_grad()
def fill(model: HPCM) -> HPCM:
    """Give every parameter of an HPCM its value, which depends on its place alone; computed in float64."""
    convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.ConvTranspose2d)]
    for conv in convolutions:
        o, i, a, b = torch.meshgrid(*(_numbers(size) for size in conv.weight.shape), indexing="ij")
        # In this order: arguments go to millions, where another one already shows in the tenth digit of a sine.
        weight = torch.sin(0.37 * o * o + 0.61 * i + 0.13 * o * i + 1.7 * a + 2.3 * b)
        transposed = isinstance(conv, nn.ConvTranspose2d)
        fan = len(weight) if transposed else weight[0].numel()
        conv.weight.copy_(weight / fan**0.5)
        assert conv.bias is not None
        conv.bias.copy_(0.01 * torch.cos(_numbers(conv.out_channels)))
    channels = _numbers(model.means_hyper.numel())
    model.means_hyper.copy_(0.05 * torch.sin(channels).view_as(model.means_hyper))
    model.scales_hyper.copy_(1 + 0.1 * torch.cos(channels).view_as(model.scales_hyper))
    for number, vector in enumerate(model.adaptive_params_list):
        vector.copy_(1 + 0.05 * torch.sin(_numbers(vector.numel()) + number).view_as(vector))
    for transform, factor in ((model.g_a, 100), (model.h_a, 2)):
        last = transform.branch[-1]
        last.weight.mul_(factor)
        last.bias.mul_(factor)
    for last in (model.y_spatial_prior_s1_s2.branch_2[-1], model.y_spatial_prior_s3.branch_2[-1], model.h_s.branch[-2]):
        last.bias[: last.out_channels // 2] += 2
    return model


def picture(height: int, width: int) -> Tensor:
    """`[1, 3, height, width]` of .1 to .9, in float64."""
    c, i, j = torch.meshgrid(_numbers(3), _numbers(height), _numbers(width), indexing="ij")
    return (0.5 + 0.4 * torch.sin(0.05 * (c + 1) * i) * torch.cos(0.07 * j + c))[None]
