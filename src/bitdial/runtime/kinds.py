"""What a layer computes, as a kind of operation, or why no kernel can."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitdial.export.calibration import activation_grid, weight_codes
from bitdial.layers import QuantConv1d, QuantConv2d, QuantizedLayer, QuantLinear
from bitdial.models.networks import Subsample
from bitdial.runtime.operations import Borders, Convolve, Multiply
from bitdial.runtime.weights import INT32, Weights

Kind = Convolve | Multiply


def geometry_of(layer: Any) -> tuple[tuple[int, int], Borders, tuple[int, int]] | str:
    """Stride, borders and dilation of a convolution of one or two dimensions, or why it has none."""
    if layer.padding_mode != "zeros":
        return f"padding {layer.padding_mode} repeats values instead of adding zeros"
    sides = [int(side) for side in layer._reversed_padding_repeated_twice]
    if len(sides) == 2:
        sides += [0, 0]
    left, right, top, bottom = sides
    stride, dilation = (tuple(part) if len(part) == 2 else (1, *part) for part in (layer.stride, layer.dilation))
    return stride, Borders(top, left, bottom, right), dilation


def _four(weight: Tensor) -> Tensor:
    """A weight as ``(out, in, rows, columns)``."""
    if weight.dim() == 3:
        return weight[:, :, None]
    return weight if weight.dim() == 4 else weight[:, :, None, None]


def quantized_kind(layer: QuantizedLayer) -> tuple[Kind, NDArray[np.float64]] | str:
    """What a quantized layer computes and the scale of its output channels, or why no kernel can."""
    if type(layer) not in (QuantConv1d, QuantConv2d, QuantLinear):
        return f"there is no kernel for a {type(layer).__name__}"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has hooks"
    if layer.is_read or layer.range_calls != 1:
        return "its weight is read, or it is called several times with ranges of their own"
    geometry = ((1, 1), Borders(0, 0, 0, 0), (1, 1)) if isinstance(layer, QuantLinear) else geometry_of(layer)
    if isinstance(geometry, str):
        return geometry
    grid, groups = activation_grid(layer), int(getattr(layer, "groups", 1))
    if grid is None and layer.quantizer.rotates:
        return f"quantizer {layer.quantizer.name} rotates its input"
    if grid is None:
        with torch.no_grad():
            values = _four(layer.quantized_weight()).float().numpy()
        return Multiply(values, groups, *geometry), np.ones(len(values))
    if isinstance(grid, str):
        return grid
    if grid.zero_point is None:
        return "0.0 is not on the grid of its input"
    if grid.levels > 256:
        return f"its input has {grid.levels} levels, more than a byte holds"
    found = weight_codes(layer)
    if isinstance(found, str):
        return found
    weights = Weights(_four(found.codes).numpy().astype(np.int32), groups, grid.levels - 1)
    if weights.largest_sum * 2 > INT32:
        return "its sums could leave 32 bits"
    return Convolve(weights, grid, *geometry), found.scale.double().numpy() * grid.scale


def float_kind(layer: nn.Module, source: tuple[int, ...]) -> Multiply | None:
    """What a layer that is not quantized computes, where a kernel can; `source` is the shape of its input."""
    if isinstance(layer, Subsample):
        extra = layer._extra
        chosen = np.eye(source[1] + extra, source[1], -(extra // 2), dtype=np.float32)
        return Multiply(chosen[:, :, None, None], stride=(2, 2))
    if layer._forward_hooks or layer._forward_pre_hooks or type(layer) not in (nn.Conv1d, nn.Conv2d, nn.Linear):
        return None
    weight = layer.weight
    if not isinstance(weight, Tensor) or weight.dtype != torch.float32:
        return None
    values = _four(weight.detach()).numpy()
    if isinstance(layer, nn.Linear):
        return Multiply(values)
    geometry = geometry_of(layer)
    return None if isinstance(geometry, str) else Multiply(values, int(layer.groups), *geometry)  # type: ignore[arg-type]
