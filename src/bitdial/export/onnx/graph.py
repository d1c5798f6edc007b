"""From a twin to a graph of ONNX: torch's exporter, then what ours adds, then the lowest version that has it all."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bitdial.errors import BitdialError
from bitdial.trees import map_tensors, tensors

Graph: TypeAlias = Any
"""A model of onnx_ir. (Types of packages that may be missing are not looked at.)"""

BATCH = "batch"
"""Name of the dimension that may have any size."""

OPSET = 18
"""The operator set that graphs begin with, the oldest that torch's exporter writes."""


def needed(name: str) -> Any:
    """A package of the extra ``export``.

    Raises:
        BitdialError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BitdialError(
            f"exporting to ONNX needs {name.partition('.')[0]}; install it with pip install 'bitdial[export]'"
        ) from error


def exported(
    twin: nn.Module, example: Any, opset: int = OPSET, *, sizes: bool = False, fixed: bool = False
) -> tuple[Graph, str]:
    """The graph of a network, and why its batch is fixed (empty: it may have any size).

    Args:
        twin: in evaluation mode.
        example: one input: a tensor, or a tree of them; the first dimension of each is the batch.
        opset: version of the operator set.
        sizes: whether height and width of pictures may have any size too.
        fixed: whether batches must have the size of the example.

    Raises:
        BitdialError: torch cannot export the network, or a package is missing.
    """
    needed("onnx"), needed("onnxscript"), needed("onnx_ir")
    pair = map_tensors(lambda x: torch.cat([x, x]) if len(x) == 1 else x, example)  # 1 would be taken for a constant
    free = {0: BATCH, **({2: "height", 3: "width"} if sizes else {})}
    try:
        if fixed:
            return _exported(twin, example, None, opset), ""
        return _exported(twin, pair, [dict(free) for _ in tensors(pair)], opset), ""
    except Exception as first:
        try:
            return _exported(twin, example, None, opset), _reason(first)
        except Exception as error:
            raise BitdialError(
                f"torch cannot export this network to ONNX: {_reason(error)}; write it without what depends on values "
                "or on Python objects, or ship it as a packed file"
            ) from error


class _Flat(nn.Module):
    """A network that takes the tensors of its input one by one, as a file does."""

    def __init__(self, network: nn.Module, example: Any) -> None:
        super().__init__()
        self.network, self.example = network, [example]

    def forward(self, *values: Tensor) -> Any:
        """The network's outputs."""
        given = iter(values)
        return self.network(map_tensors(lambda _: next(given), self.example[0]))


class _FlatAttention(TorchFunctionMode):
    """Attention over more than one dimension of batches (that of windows, in some networks) as over one.

    The exporter's own takes inputs of four dimensions alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, of attention with the batches flattened."""
        given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False))
        given.update(kwargs or {})
        if func is not nn.functional.scaled_dot_product_attention or given["query"].dim() <= 4:
            return func(*args, **(kwargs or {}))
        query, key = given["query"], given["key"]
        if given.get("attn_mask") is not None:  # it may be broadcast over them
            given["attn_mask"] = given["attn_mask"].expand(*query.shape[:-1], key.shape[-2])
        for name in ("query", "key", "value", "attn_mask"):
            if given.get(name) is not None:
                given[name] = given[name].flatten(0, -4)
        found = func(**given)
        return found.reshape(*query.shape[:-3], *found.shape[-3:])


_PREFIX = "network."  # of names of what is in a `_Flat`


def _exported(twin: nn.Module, example: Any, shapes: list[dict[int, str]] | None, opset: int) -> Graph:
    names = _names(example)
    with _quiet(), torch.no_grad(), _FlatAttention():
        program: Any = torch.onnx.export(
            _Flat(twin, example),
            tuple(tensors(example)),
            dynamo=True,
            dynamic_shapes=None if shapes is None else (tuple(shapes),),
            input_names=names,
            opset_version=opset,
            verbose=False,
            optimize=True,
        )
    graph = program.model
    if shapes is None:
        for value, given in zip(graph.graph.inputs, tensors(example), strict=True):
            value.shape = needed("onnx_ir").Shape(list(given.shape))
    for value in list(graph.graph.initializers.values()):
        if value.name.startswith(_PREFIX):
            value.name = value.name.removeprefix(_PREFIX)
    return graph


def _names(example: Any) -> list[str]:
    """Names of the tensors of an input: their keys, where they have some."""
    if isinstance(example, Tensor):
        return ["input"]
    if isinstance(example, Mapping) and all(isinstance(part, Tensor) for part in example.values()):
        return [str(key) for key in example]
    return [f"input_{place}" for place, _ in enumerate(tensors(example))]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints, warns and logs along the way."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The last cause of an error in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:300]


def layer_of(node: Any, names: set[str]) -> str | None:
    """The quantized layer in whose forward pass a node stands: the innermost of `names` around it."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    if not scopes:
        return None
    inside = (scope.removeprefix(_PREFIX) for scope in reversed(ast.literal_eval(scopes)))
    return next((scope for scope in inside if scope in names), None)


def finished(graph: Graph, name: str) -> Any:
    """The model of a graph, of the lowest version that has all of it, checked.

    Nothing of the machine that it was written on stays in it.

    Raises:
        BitdialError: it has become larger than 2 GiB, which one file of ONNX cannot be.
    """
    onnx, ir = needed("onnx"), needed("onnx_ir")
    for each in [graph.graph, *graph.graph.all_nodes()]:
        each.metadata_props.clear()
        each.doc_string = None
    for node in graph.graph.all_nodes():
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.graph.initializers.values(), *graph.graph.inputs):
        value.metadata_props.clear()
    graph.graph.name = name
    graph.producer_name, graph.producer_version = "bitdial", None
    graph.metadata_props.clear()
    graph.ir_version = max(_ir_of(onnx, graph.graph.opset_imports[""]), 8)
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    if size > 2**31 - 2**20:
        raise BitdialError(
            f"a file of ONNX must be smaller than 2 GiB, got {size / 2**30:.1f} GiB of weights; quantize the layers "
            "that are left in float32, or ship it as a packed file"
        )
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto)
    return proto


def _ir_of(onnx: Any, opset: int) -> int:
    """The version of the format that a version of the operator set came with."""
    return int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)], ignore_unknown=True))


def input_names(graph: Graph) -> list[str]:
    """Names of what goes in, in the order of the example's tensors."""
    return [value.name for value in graph.graph.inputs]


def feed(graph_inputs: list[str], batch: Any) -> dict[str, Any]:
    """A batch as what a session takes: a tensor, or the tensors of a tree in order."""
    values = list(tensors(batch))
    return {name: value.detach().numpy() for name, value in zip(graph_inputs, values, strict=True)}
