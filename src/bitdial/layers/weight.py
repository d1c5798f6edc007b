"""The weight of a quantized layer as others see it who read it instead of calling the layer."""

from __future__ import annotations

import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint_sequential

from bitdial.numerics.grid import is_traced

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


class ReadWeight(Tensor):
    """The grid values of a weight, in which nothing can be written: what is written goes into the weight itself.

    Some modules do so in a forward pass (a norm that is kept small, adapters of peft that are taken out of a weight).
    """

    layer: QuantizedLayer

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any function of torch on these values, whose result is a plain tensor."""
        named, name = dict(kwargs or {}), func.__name__
        with torch._C.DisableTorchFunctionSubclass():
            if func in _OF_THE_WEIGHT or name in _WRITES or (name.endswith("_") and not name.endswith("__")):
                args = [*map(cls._float_weight, args[:1]), *args[1:]]
                named |= {key: cls._float_weight(value) for key, value in named.items() if key == "tensor"}
            named |= {key: cls._float_weight(value) for key, value in named.items() if key == "out"}
            if func is torch.autograd.grad:
                args, named = tree_map(cls._float_weight, (args, named))
            if name in _COPIES:
                args = [args[0].as_subclass(Tensor), *args[1:]]
            if name not in _LOOKS:
                for value in tree_leaves((args, named)):
                    if isinstance(value, cls):
                        value.layer.is_read = True
            return func(*args, **named)

    @classmethod
    def _float_weight(cls, value: Any) -> Any:
        return value.layer._float_weight() if isinstance(value, cls) else value


_OF_THE_WEIGHT = {getattr(one, way) for one in (Tensor.data, Tensor.grad) for way in ("__get__", "__set__")}
_WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__idiv__", "__itruediv__"}
_COPIES = {"__deepcopy__", "__reduce_ex__"}
_LOOKS = {"__get__", "size", "dim", "numel", "stride", "is_floating_point"}  # at a shape, a dtype


class Weight:
    """The attribute `weight` of a quantized layer: its parameter; to another module that is running, its grid values.

    Some networks read the weight of a layer instead of calling it (Swin's attention, autoencoders with tied weights).
    What is set in the parameter's place (by pruning, by replicas) is its float weight too.
    """

    def __get__(self, layer: QuantizedLayer | None, kind: type | None = None) -> Any:
        if layer is None:
            return self
        own = vars(layer).get("weight")
        if own is None:
            own = nn.Module.__getattr__(layer, "weight")
        if own is None or not _is_running(layer):
            return own
        if torch.compiler.is_compiling():
            return layer.quantized_weight()
        with layer.as_it_was():
            values = layer.quantized_weight()
        if type(values) not in (Tensor, nn.Parameter) or is_traced():
            layer.is_read = True
            return values
        read = values.as_subclass(ReadWeight)
        read.layer = layer
        return read

    def __set__(self, layer: QuantizedLayer, value: Any) -> None:
        vars(layer)["weight"] = value

    def __delete__(self, layer: QuantizedLayer) -> None:
        if vars(layer).pop("weight", self) is self:
            raise AttributeError(f"{type(layer).__name__} has no weight")
