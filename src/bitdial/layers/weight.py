"""The weight of a quantized layer as others see it who read it instead of calling the layer."""

from __future__ import annotations

import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential

if TYPE_CHECKING:
    from bitdial.layers.quantized import QuantizedLayer


def _is_running(layer: nn.Module) -> bool:
    """Whether the forward pass of another module is going on, in which a layer's weight is being read."""
    if torch.compiler.is_compiling():
        return True
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code is _CALL or code.co_name == "forward":
            return frame.f_locals.get("self") is not layer
        if code.co_filename == _CHECKPOINT:  # a part of a forward pass is taken again
            return True
        frame = frame.f_back
    return False


_CALL = nn.Module._call_impl.__code__
_CHECKPOINT = checkpoint_sequential.__code__.co_filename


class Weight:
    """The attribute `weight` of a quantized layer: its parameter; to another module that is running, its grid values.

    Some networks read the weight of a layer instead of calling it (Swin's attention, autoencoders with tied weights).
    No data descriptor, so that whatever is set on the layer itself (by pruning, by replicas) goes before it.
    """

    def __get__(self, layer: QuantizedLayer | None, kind: type | None = None) -> Any:
        if layer is None:
            return self
        if "weight" in layer._parameters and _is_running(layer):
            if not torch.compiler.is_compiling():
                layer.is_read = True
            with layer.as_it_was():
                return layer.quantized_weight()
        return nn.Module.__getattr__(layer, "weight")
