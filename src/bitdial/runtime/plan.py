"""How a network is run for inputs of one shape: parts that the kernels run, and what PyTorch computes between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from bitdial.runtime.capture import shapes_of
from bitdial.runtime.lowering import Layout, Lowering
from bitdial.runtime.operations import Operation, Shape
from bitdial.runtime.program import Program


class Plan:
    """A graph, ready to be called with inputs of one shape (the number of examples may differ).

    Attributes:
        programs: the parts that the kernels run.
        left: nodes that PyTorch computes.
    """

    def __init__(self, module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
        self._module = module
        self._shapes = shapes_of(module, inputs)
        lowering = Lowering(module, self._shapes)
        self._layouts, self._value = lowering.layouts, lowering.value
        self._names = [node.name for node in module.graph.nodes if node.op == "placeholder"]
        self._result = next(node for node in module.graph.nodes if node.op == "output")
        groups = _grouped(lowering.items)
        reads = [self._reads(group) for group in groups]
        returned = {self._value(node.name) for node in self._result.all_input_nodes}
        later = [set(returned).union(*reads[place + 1 :]) for place in range(len(groups))]
        self._parts = [
            self._program(group, read, wanted) if isinstance(group, list) else group
            for group, read, wanted in zip(groups, reads, later, strict=True)
        ]
        self._forget = [read - wanted for read, wanted in zip(reads, later, strict=True)]
        self.programs = [part for part in self._parts if isinstance(part, Program)]
        self.left = [part for part in self._parts if isinstance(part, fx.Node)]

    def __call__(self, inputs: Sequence[Tensor], threads: int) -> Any:
        """The network's output."""
        values = _Values(self._layouts, self._shapes, dict(zip(self._names, inputs, strict=True)))
        for part, forget in zip(self._parts, self._forget, strict=True):
            if isinstance(part, Program):
                dense = [values.dense(name) for name in part.incoming]
                values.take(part.outgoing, part(dense, len(inputs[0]), threads))
            else:
                values.plain[part.name] = self._computed(part, values)
            values.forget(forget)
        return fx.node.map_arg(self._result.args[0], lambda node: values.logical(node.name, self._value(node.name)))

    def _reads(self, group: list[Operation] | fx.Node) -> set[str]:
        """The values that come from elsewhere."""
        if isinstance(group, fx.Node):
            return {self._value(node.name) for node in group.all_input_nodes}
        made = {operation.output for operation in group}
        return {name for operation in group for name in operation.reads} - made

    def _program(self, group: list[Operation], reads: set[str], wanted: set[str]) -> Program:
        made = {operation.output: operation.shape for operation in group}
        incoming = {name: self._shape(name) for name in sorted(reads)}
        return Program(group, incoming, {name: shape for name, shape in made.items() if name in wanted})

    def _shape(self, name: str) -> Shape:
        dims = self._shapes[name]
        if self._layouts[name] == "rows" and len(dims) > 1:
            return Shape(dims[-1], 1, int(torch.Size(dims[1:-1]).numel()))
        return Shape(dims[1], dims[2] if len(dims) == 4 else 1, dims[-1] if len(dims) > 2 else 1)

    def _computed(self, node: fx.Node, values: _Values) -> Any:
        """What PyTorch makes of a node."""
        if node.op == "get_attr":
            found: Any = self._module
            for part in str(node.target).split("."):
                found = getattr(found, part)
            return found
        given = fx.node.map_arg(
            (node.args, node.kwargs), lambda each: values.logical(each.name, self._value(each.name))
        )
        arguments, named = given
        if node.op == "call_module":
            return self._module.get_submodule(str(node.target))(*arguments, **named)
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **named)
        assert callable(node.target)
        return node.target(*arguments, **named)


class _Values:
    """What is at hand while a plan runs: what PyTorch computed, and what kernels did (floats, channels last)."""

    def __init__(
        self, layouts: Mapping[str, Layout], shapes: Mapping[str, tuple[int, ...]], plain: dict[str, Any]
    ) -> None:
        self._layouts, self._shapes, self.plain = layouts, shapes, plain
        self._dense: dict[str, Tensor] = {}

    def take(self, names: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
        """What a program gives."""
        self._dense.update(zip(names, tensors, strict=True))

    def dense(self, name: str) -> Tensor:
        """A value as the kernels read it."""
        found = self._dense.get(name)
        if found is None:
            x = self.plain[name]
            if self._layouts[name] == "image" and x.dim() > 2:
                x = x.permute(0, *range(2, x.dim()), 1)
            found = self._dense[name] = x.float().contiguous()
        return found

    def logical(self, name: str, value: str) -> Any:
        """A node's value as PyTorch has it, `value` being where it is kept."""
        if value in self.plain:
            return self.plain[value] if name == value else self.plain[value].reshape(-1, *self._shapes[name][1:])
        x, dims = self._dense[value], self._shapes[name]
        if self._layouts[value] == "image" and len(dims) == 4:
            return x.permute(0, 3, 1, 2).contiguous()  # as PyTorch has it: `view` asks for that order
        if self._layouts[value] == "image" and len(dims) == 3:
            return x[:, 0].permute(0, 2, 1).contiguous()
        return x.reshape(len(x), *dims[1:])

    def forget(self, names: set[str]) -> None:
        """What nothing reads any more."""
        for name in names:
            self.plain.pop(name, None)
            self._dense.pop(name, None)


def _grouped(items: Sequence[Operation | fx.Node]) -> list[list[Operation] | fx.Node]:
    """Operations that follow each other in lists."""
    groups: list[list[Operation] | fx.Node] = []
    for item in items:
        if isinstance(item, fx.Node):
            groups.append(item)
        elif groups and isinstance(groups[-1], list):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups
