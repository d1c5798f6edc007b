"""The graph of a network: its layers in order, by `torch.fx`, and the shapes of what goes from one to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitdial.layers import QuantizedLayer
from bitdial.layers.norm_rows import PerWidth
from bitdial.models.networks import Subsample
from bitdial.runtime.activations import IN_PLACE
from bitdial.runtime.substitution import KernelLayer

EXAMPLES = 3
"""In the batch with which shapes are found: few, and not likely to be the size of anything else."""


class _Tracer(fx.Tracer):
    """Layers stay whole; what holds quantized ones is looked into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, KernelLayer | QuantizedLayer | PerWidth | Subsample):
            return True
        if any(isinstance(each, KernelLayer | QuantizedLayer) for each in m.modules()):
            return False
        return bool(super().is_leaf_module(m, module_qualified_name))


def traced(model: nn.Module) -> fx.GraphModule | str:
    """The graph of a network in evaluation mode, or why there is none."""
    try:
        graph = _Tracer().trace(model)
        module = fx.GraphModule(model, graph)
        graph.eliminate_dead_code()
    except Exception as error:  # whatever a network does with what stands for its tensors
        return f"torch.fx cannot follow it: {' '.join(str(error).split())[:200]}"
    if any(_spoils(module, node) for node in graph.nodes):
        return "it changes a value in place that is read again later"
    return module


def _spoils(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node changes its input in place and something else reads that afterwards."""
    if node.op == "call_module":
        changes = bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    elif node.op == "call_function":
        changes = node.target in IN_PLACE or bool(node.kwargs.get("inplace"))
    elif node.op == "call_method":
        changes = str(node.target).endswith("_")
    else:
        return False
    if not changes or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    return any(user is not node and user > node for user in node.args[0].users)


class _Shapes(fx.Interpreter):
    """Runs the graph and keeps the shape of every tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            self.found[n.name] = tuple(value.shape)
        return value


def shapes_of(module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> Mapping[str, tuple[int, ...]]:
    """The shapes of all float32 tensors, by node, for a batch of `EXAMPLES` inputs like these."""
    shapes = _Shapes(module)
    with torch.no_grad():
        shapes.run(*(each.new_zeros(EXAMPLES, *each.shape[1:]) for each in inputs))
    return shapes.found
