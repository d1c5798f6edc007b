"""A layer that takes the place of a quantized one on a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitdial.layers import QuantizedLayer, QuantLinear
from bitdial.runtime.gpu.packing import PackedWeight, pack
from bitdial.runtime.gpu.products import encoded, packed_conv2d, packed_matmul
from bitdial.runtime.operations import Convolve


class TritonLayer(nn.Module):
    """A convolution of one or two dimensions, or a linear layer, on packed weights.

    Args:
        layer: whose hooks, if it has any, are gone.
        kind, scale: what `quantized_kind` says of it.
        threads: for the other layers that take a place; not used.
    """

    data: Tensor
    sums: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: QuantizedLayer, kind: Convolve, scale: Any, threads: int = 1) -> None:
        super().__init__()
        self._grid, self._is_linear = kind.grid, isinstance(layer, QuantLinear)
        codes = torch.from_numpy(kind.weights.codes.astype(np.int8))
        self._packed = pack(codes, kind.weights.groups)
        self._geometry: dict[str, Any] = {
            "stride": kind.stride,
            "padding": tuple(kind.borders),
            "dilation": kind.dilation,
        }
        bias = None if layer.bias is None else layer.bias.detach().float().clone()
        for name, value in (("data", self._packed.data), ("sums", self._packed.sums), ("bias", bias)):
            self.register_buffer(name, value)
        self.register_buffer("scale", torch.from_numpy(np.asarray(scale, np.float32)))

    @property
    def weight(self) -> PackedWeight:
        """The weights, where the layer is."""
        return replace(self._packed, data=self.data, sums=self.sums)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives, of the type of its input."""
        assert self._grid.zero_point is not None  # `quantized_kind` gives no other
        codes, zero = encoded(x, self._grid)
        given: dict[str, Any] = {"zero_point": zero, "scale": self.scale, "bias": self.bias, "dtype": x.dtype}
        if self._is_linear:
            return packed_matmul(codes, self.weight, **given)
        image = codes if x.dim() == 4 else codes[:, :, None]
        y = packed_conv2d(image, self.weight, **self._geometry, **given)
        return y if x.dim() == 4 else y[:, :, 0]
