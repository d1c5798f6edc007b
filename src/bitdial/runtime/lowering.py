"""From the nodes of a network's graph to operations of the kernels; what they cannot do is left to PyTorch."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from bitdial.layers import QuantizedLayer
from bitdial.models.networks import Subsample
from bitdial.runtime.activations import activation_of
from bitdial.runtime.capture import EXAMPLES
from bitdial.runtime.kinds import float_kind, quantized_kind
from bitdial.runtime.operations import (
    Borders,
    ByChannel,
    Concatenate,
    Convolve,
    Kind,
    Multiply,
    Operation,
    Pooling,
    Same,
    Shape,
)
from bitdial.runtime.substitution import KernelLayer

Layout: TypeAlias = Literal["image", "rows"]
"""``(batch, channels, *space)``, or ``(batch, ..., features)``."""

MOST_FLOATS = 2**16
"""Weights of a layer in floating point that fit a cache; PyTorch is quicker with more, unless there is one pixel."""

MOST_FLOATS_OF_A_PIXEL = 2**20

_SAME = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout1d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_SAME_CALLS = ("contiguous", functional.dropout)
_ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
_FLATTENS = (torch.flatten, torch.reshape, "flatten", "view", "reshape", nn.Flatten)


class Lowering:
    """Turns nodes into operations, one after the other, and takes what belongs together into one.

    Attributes:
        items: operations, and the nodes that PyTorch computes, in order.
        layouts: of every value of an operation.
    """

    def __init__(self, module: fx.GraphModule, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.module, self.shapes = module, shapes
        self.items: list[Operation | fx.Node] = []
        self.layouts: dict[str, Layout] = {}
        self._alias: dict[str, str] = {}
        self._made: dict[str, Operation] = {}
        for node in module.graph.nodes:
            if node.op not in ("placeholder", "output") and not self._lowered(node):
                self.items.append(node)

    def value(self, name: str) -> str:
        """The value that a node stands for."""
        return self._alias.get(name, name)

    def shape(self, name: str, layout: Layout) -> Shape | None:
        """Of an example of a value; None where it is no float tensor whose first dimension is the batch."""
        dims = self.shapes.get(name, ())
        if len(dims) < 2 or dims[0] != EXAMPLES or 0 in dims:
            return None
        if layout == "rows":
            return Shape(dims[-1], 1, math.prod(dims[1:-1]))
        if len(dims) not in (3, 4):
            return None
        return Shape(dims[1], 1 if len(dims) == 3 else dims[2], dims[-1])

    def _lowered(self, node: fx.Node) -> bool:
        module = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        target: Any = module if module is not None else node.target
        if node.op not in ("call_module", "call_function", "call_method") or not node.args:
            return False
        if target in (torch.cat, torch.concat):
            return self._concatenated(node)
        first = node.args[0]
        if not isinstance(first, fx.Node) or first.name not in self.shapes or node.name not in self.shapes:
            return False
        if isinstance(module, KernelLayer | QuantizedLayer | nn.Conv1d | nn.Conv2d | nn.Linear | Subsample):
            return self._product(node, first, module)
        if isinstance(module, _BatchNorm):
            return self._norm(node, first, module)
        if isinstance(target, _SAME) or target in _SAME_CALLS:
            return self._aliased(node, first)
        if target in _ADDS:
            return self._sum(node)
        if target in _FLATTENS or isinstance(module, nn.Flatten):
            return self._flattened(node, first)
        rest = {str(place): each for place, each in enumerate(node.args) if place} | dict(node.kwargs)
        act = activation_of(target, rest)
        if act is not None:
            return self._activated(node, first, act)
        pooling = self._pooling(target, first, node, rest)
        return pooling is not None and self._add(node, first, pooling, "image")

    def _aliased(self, node: fx.Node, first: fx.Node) -> bool:
        if self.shapes[node.name] != self.shapes[first.name] or self.value(first.name) not in self.layouts:
            return False
        self._alias[node.name] = self.value(first.name)
        return True

    def _layout(self, node: fx.Node, wanted: Layout | None) -> Layout | None:
        """The layout of a value that comes in; None where it is another one than is wanted, or no example's."""
        name = self.value(node.name)
        known = self.layouts.get(name)
        if known is None and wanted is None:
            wanted = "image" if len(self.shapes[node.name]) == 4 else "rows"
        layout = known or wanted
        assert layout is not None
        flat = len(self.shapes[node.name]) == 2
        if flat:
            layout = "rows"
        elif wanted is not None and layout != wanted:
            return None
        return None if self.shape(node.name, layout) is None else layout

    def _add(self, node: fx.Node, first: fx.Node, kind: Kind, layout: Layout | None, **more: Any) -> bool:
        """A new operation of one input."""
        found = self._layout(first, layout)
        if found is None:
            return False
        after: Layout = "rows" if len(self.shapes[node.name]) == 2 else found
        source, shape = self.shape(first.name, found), self.shape(node.name, after)
        if source is None or shape is None:
            return False
        self.layouts[self.value(first.name)] = found
        self._take(node, Operation(kind, [self.value(first.name)], node.name, shape, source, **more), after)
        return True

    def _take(self, node: fx.Node, operation: Operation, layout: Layout) -> None:
        self.items.append(operation)
        self._made[node.name] = operation
        self.layouts[node.name] = layout
        if node.op == "call_module":
            operation.names.append(str(node.target))

    def _product(self, node: fx.Node, first: fx.Node, layer: nn.Module) -> bool:
        flat = isinstance(layer, nn.Linear) or (isinstance(layer, KernelLayer) and layer.is_linear)
        kind: Kind
        if isinstance(layer, KernelLayer):
            kind, scale, own = layer.kind, layer.scale, layer.bias
        else:
            found = quantized_kind(layer) if isinstance(layer, QuantizedLayer) else None
            plain = found[0] if isinstance(found, tuple) else float_kind(layer, self.shapes[first.name])
            if not isinstance(plain, Multiply) or isinstance(found, str):
                return False
            bias = getattr(layer, "bias", None)
            own = None if bias is None else bias.detach().double().numpy()
            kind, scale = plain, np.ones(len(plain.weights))
        shape = self.shape(node.name, "rows" if flat else "image")
        if isinstance(kind, Multiply) and shape is not None:
            most = MOST_FLOATS_OF_A_PIXEL if shape.height * shape.width == 1 else MOST_FLOATS
            if kind.weights.size > most and not isinstance(layer, Subsample):
                return False
        return self._add(node, first, kind, "rows" if flat else "image", scale=scale, bias=own)

    def _continued(self, first: fx.Node) -> Operation | None:
        """The operation that made a value which nothing else reads, and to which more can be added."""
        operation, node = self._made.get(self.value(first.name)), first
        if operation is None or not operation.takes_more or operation.output != self.value(first.name):
            return None
        while len(node.users) == 1 and node.name in self._alias:
            assert isinstance(node.args[0], fx.Node)
            node = node.args[0]
        return operation if len(node.users) == 1 else None

    def _renamed(self, node: fx.Node, operation: Operation, before: str) -> bool:
        layout = self.layouts[before]
        operation.output = node.name
        self._made[node.name] = operation
        self.layouts[node.name] = layout
        if node.op == "call_module":
            operation.names.append(str(node.target))
        return True

    def _norm(self, node: fx.Node, first: fx.Node, norm: _BatchNorm) -> bool:
        if norm.running_mean is None or norm.running_var is None or norm._forward_hooks or norm._forward_pre_hooks:
            return False
        mean, variance = (part.detach().double().numpy() for part in (norm.running_mean, norm.running_var))
        scale = 1.0 / np.sqrt(variance + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight.detach().double().numpy()
        shift = -mean * scale + (0.0 if norm.bias is None else norm.bias.detach().double().numpy())
        operation = self._continued(first)
        if operation is not None and operation.residual is None and isinstance(operation.kind, Convolve | Multiply):
            assert operation.scale is not None
            operation.bias = shift + (0.0 if operation.bias is None else operation.bias * scale)
            operation.scale = operation.scale * scale
            return self._renamed(node, operation, self.value(first.name))
        layout: Layout = "rows" if len(self.shapes[node.name]) == 2 else "image"
        return self._add(node, first, Same(), layout, scale=scale, bias=shift)

    def _activated(self, node: fx.Node, first: fx.Node, act: Any) -> bool:
        operation = self._continued(first)
        if operation is None:
            return self._add(node, first, Same(), None, act=act)
        operation.act = act
        return self._renamed(node, operation, self.value(first.name))

    def _sum(self, node: fx.Node) -> bool:
        terms = list(node.args)
        if node.kwargs or len(terms) != 2 or not all(isinstance(each, fx.Node) for each in terms):
            return False
        one, other = (each for each in terms if isinstance(each, fx.Node))
        if one is other or self.shapes.get(one.name) != self.shapes.get(other.name) or one.name not in self.shapes:
            return False
        known = {self.layouts.get(self.value(each.name)) for each in (one, other)} - {None}
        layout = next(iter(known)) if len(known) == 1 else None
        found = [self._layout(each, layout) for each in (one, other)]
        if None in found or found[0] != found[1] or len(known) > 1:
            return False
        for each in (one, other):
            self.layouts[self.value(each.name)] = found[0]  # type: ignore[assignment]
        # The later of the two takes the earlier one as its residual.
        made = [self._continued(each) for each in (one, other)]
        places = [-1 if m is None or m.residual is not None else self.items.index(m) for m in made]
        for mine, theirs, operation, place in ((one, other, made[0], places[0]), (other, one, made[1], places[1])):
            if operation is not None and place >= 0 and place > self._ready(theirs):
                operation.residual = self.value(theirs.name)
                return self._renamed(node, operation, self.value(mine.name))
        return self._add(node, one, Same(), None, residual=self.value(other.name))

    def _ready(self, node: fx.Node) -> int:
        """The place of the item that a value is there after."""
        name = self.value(node.name)
        for place, item in enumerate(self.items):
            if (item.output if isinstance(item, Operation) else item.name) == name:
                return place
        return -1

    def _concatenated(self, node: fx.Node) -> bool:
        parts = node.args[0]
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if not isinstance(parts, list | tuple) or dim not in (1, -3) or len(self.shapes.get(node.name, ())) != 4:
            return False
        nodes = [each for each in parts if isinstance(each, fx.Node) and each.name in self.shapes]
        if len(nodes) != len(parts) or any(self._layout(each, "image") is None for each in nodes):
            return False
        shape, source = self.shape(node.name, "image"), self.shape(nodes[0].name, "image")
        if shape is None:
            return False
        for each in nodes:
            self.layouts[self.value(each.name)] = "image"
        inputs = [self.value(each.name) for each in nodes]
        self._take(node, Operation(Concatenate(), inputs, node.name, shape, source), "image")
        return True

    def _flattened(self, node: fx.Node, first: fx.Node) -> bool:
        """All but the batch in one."""
        before, after = self.shapes[first.name], self.shapes[node.name]
        if after != (EXAMPLES, math.prod(before[1:])) or len(before) not in (3, 4):
            return False
        if self._layout(first, "image") is None or self.layouts.get(self.value(first.name)) != "image":
            return False
        if math.prod(before[2:]) == 1:
            self._alias[node.name] = self.value(first.name)
            return True
        self._take(
            node,
            Operation(
                ByChannel(), [self.value(first.name)], node.name, Shape(after[1], 1, 1), self.shape(first.name, "image")
            ),
            "rows",
        )
        return True

    def _pooling(self, target: Any, first: fx.Node, node: fx.Node, rest: dict[str, Any]) -> Pooling | None:
        """What a node pools in two dimensions."""
        if len(self.shapes[first.name]) != 4:
            return None
        height, width = self.shapes[first.name][2:]
        if target in (torch.mean, "mean"):
            dims, keep = rest.get("1", rest.get("dim")), rest.get("2", rest.get("keepdim", False))
            both = isinstance(dims, list | tuple) and sorted(int(d) % 4 for d in dims if isinstance(d, int)) == [2, 3]
            if not both or set(rest) - {"1", "2", "dim", "keepdim"} or not isinstance(keep, bool):
                return None
            return Pooling(False, (height, width), (1, 1), Borders(0, 0, 0, 0), divisor=height * width)
        if isinstance(target, nn.AdaptiveAvgPool2d) or target is functional.adaptive_avg_pool2d:
            out = self.shapes[node.name][2:]
            if height % out[0] or width % out[1]:
                return None
            window = (height // out[0], width // out[1])
            return Pooling(False, window, window, Borders(0, 0, 0, 0), divisor=window[0] * window[1])
        if isinstance(target, nn.MaxPool2d) and not target.return_indices:
            return _window(True, target.kernel_size, target.stride, target.padding, target.dilation)
        if isinstance(target, nn.AvgPool2d):
            divisor = target.divisor_override or (-1 if target.count_include_pad else 0)
            return _window(False, target.kernel_size, target.stride, target.padding, 1, divisor)
        if target in (functional.max_pool2d, torch.max_pool2d):
            names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
            given = {names[int(name) - 1] if name.isdigit() else name: value for name, value in rest.items()}
            if given.get("return_indices"):
                return None
            kernel, stride = given.get("kernel_size"), given.get("stride")
            return _window(True, kernel, stride, given.get("padding", 0), given.get("dilation", 1))
        return None


def _window(largest: bool, kernel: Any, stride: Any, padding: Any, dilation: Any, divisor: int = 0) -> Pooling | None:
    pairs = [(each, each) if isinstance(each, int) else each for each in (kernel, stride or kernel, padding, dilation)]
    if not all(
        isinstance(each, tuple | list) and len(each) == 2 and all(isinstance(n, int) for n in each) for each in pairs
    ):
        return None
    (window, step, (down, right), apart) = (tuple(each) for each in pairs)
    return Pooling(largest, window, step, Borders(down, right, down, right), apart, divisor)
