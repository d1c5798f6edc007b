"""The fast form: what lies between the quantized layers on grids too, so that ONNX Runtime fuses whole blocks.

ONNX Runtime computes a convolution in whole numbers only if its output goes to a grid as well, and adds two branches so
only if both are on one. (Matrix products need neither.) Training knows no such grids: they have 8 bits and the range
that calibration sees, and what they cost is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bitdial.export.onnx.biases import whole_biases
from bitdial.export.onnx.folding import constant, dequantized_weight, drop_unused, new_constant
from bitdial.export.onnx.graph import Graph, needed

Ranges = Callable[[list[str]], dict[str, tuple[float, float]]]
"""Names of values -> smallest and largest of each over the calibration data."""

_JOINING = ("Add", "Concat")
_FOLLOWING = ("Relu", "Clip", "LeakyRelu")  # what goes into a grid with the product before it


def quantize_branches(graph: Graph, ranges: Ranges) -> int:
    """Put grids after products of whole numbers and where branches meet, in place; how many were added."""
    places = _places(graph)
    missing = [value for value in places if _own_grid(value) is None]
    found = ranges([value.name for value in missing])
    for value in places:
        grid = _own_grid(value)
        dequantized = _insert(graph, value, *found[value.name]) if grid is None else _end_of(graph, grid)
        _take_from(graph, value, dequantized)
    whole_biases(graph)
    drop_unused(graph)
    graph.graph.sort()
    return len(missing)


def _places(graph: Graph) -> list[Any]:
    """The values that are to be on a grid."""
    on_grid: set[Any] = set()
    places = []
    for node in graph.graph:
        if node.op_type == "Conv" and dequantized_weight(node) is not None and _is_dequantized(node.inputs[0]):
            end = _tail(node.outputs[0])
        elif node.op_type in _JOINING and all(value in on_grid or _own_grid(value) for value in node.inputs):
            end = _tail(node.outputs[0])
            if _own_grid(end) is None and not any(use.op_type in _JOINING for use in end.consumers()):
                continue  # it goes on in floating point
        elif node.op_type == "MaxPool" and node.inputs[0] in on_grid:
            end = node.outputs[0]
        else:
            continue
        if end.is_graph_output() or any(_is_shape_work(use) for use in end.consumers()):
            continue
        on_grid.add(end)
        places.append(end)
    return places


def _is_dequantized(value: Any) -> bool:
    made = value.producer() if value is not None else None
    return made is not None and made.op_type == "DequantizeLinear"


def _is_shape_work(node: Any) -> bool:
    return node.op_type in ("Shape", "Size")


def _tail(value: Any) -> Any:
    """The value after the activation that alone follows."""
    uses = value.consumers()
    if len(uses) == 1 and next(iter(uses)).op_type in _FOLLOWING and not value.is_graph_output():
        return next(iter(uses)).outputs[0]
    return value


def _own_grid(value: Any) -> Any:
    """A QuantizeLinear of 8 bits that a layer has put after a value, if there is one."""
    if value is None:
        return None
    found = [use for use in value.consumers() if use.op_type == "QuantizeLinear"]
    whole = [use for use in found if (zero := constant(use.inputs[2])) is not None and zero.dtype == np.uint8]
    return whole[0] if whole else None


def _end_of(graph: Graph, grid: Any) -> Any:
    """What comes out of the DequantizeLinear after a QuantizeLinear."""
    return next(use for use in grid.outputs[0].consumers() if use.op_type == "DequantizeLinear").outputs[0]


def _insert(graph: Graph, value: Any, low: float, high: float) -> Any:
    """A grid of 8 bits after a value; what comes out of it."""
    ir = needed("onnx_ir")
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, 2.0**-100)
    step = new_constant(graph, f"{value.name}.scale", np.float32(scale))
    zero = new_constant(graph, f"{value.name}.zero", np.uint8(min(max(round(-low / scale), 0), 255)))
    codes = ir.node("QuantizeLinear", [value, step, zero])
    values = ir.node("DequantizeLinear", [codes.outputs[0], step, zero])
    codes.outputs[0].name, values.outputs[0].name = f"{value.name}.codes", f"{value.name}.on_grid"
    graph.graph.insert_after(value.producer(), [codes, values])
    return values.outputs[0]


def _take_from(graph: Graph, value: Any, dequantized: Any) -> None:
    """Have all that uses a value use its values on the grid, but for grids: these take it as it is."""
    for node, index in list(value.uses()):
        if node.op_type != "QuantizeLinear" and node is not dequantized.producer():
            node.replace_input_with(index, dequantized)
