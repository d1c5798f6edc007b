"""Biases of products of whole numbers: apart in the exact form, as whole numbers in the fast one.

An integer kernel adds the bias as a whole number of units, a unit being the step of the weights times that of the
inputs. At low widths a unit is no small thing: with ternary weights and 4-bit inputs, half of one moved as many as one
in sixty outputs to the next code, and one class in a hundred (measured; ONNX Runtime rounds biases so by itself).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bitdial.export.onnx.folding import (
    axis_of,
    constant,
    dequantized_weight,
    drop_unused,
    new_constant,
    replace_weight,
    set_bias,
)
from bitdial.export.onnx.graph import Graph, needed

MOST = 64
"""Codes of weights up to it cannot overflow 16 bits, two products with bytes at a time: 2 * 255 * 64 < 2**15."""

MARK = 1e-30
"""A bias that no sum of float32 notices and no runtime takes for zero."""


def _biased(graph: Graph) -> list[tuple[Any, Any, Any, np.ndarray]]:
    """Products of whole numbers with a constant bias: node, and where weight and input come from, and the bias."""
    found = []
    for node in graph.graph:
        weight = dequantized_weight(node) if node.op_type in ("Conv", "Gemm") else None
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        given = node.inputs[0].producer() if weight is not None else None
        if bias is not None and given is not None and given.op_type == "DequantizeLinear" and bias.dtype == np.float32:
            found.append((node, weight, given, bias))
    return found


def marked_biases(graph: Graph) -> int:
    """Give convolutions that have no bias and are read more than once one that changes nothing; how many, in place.

    OpenVINO 2026.4 applies the scale of such a convolution twice where it computes it in whole numbers: once in the
    convolution and, for one of those that read it, once after that. A bias in between keeps it from moving the scale;
    zeros are taken out of the graph first, so these are not zero.
    """
    found = 0
    for node in graph.graph:
        if node.op_type not in ("Conv", "ConvTranspose") or len(node.outputs[0].uses()) < 2:
            continue
        weight = dequantized_weight(node)
        given = node.inputs[0].producer()
        if weight is None or given is None or given.op_type != "DequantizeLinear":
            continue
        value = node.inputs[2] if len(node.inputs) > 2 else None
        bias = constant(value)
        if value is not None and (bias is None or bias.any()):
            continue
        scale = constant(weight.inputs[1])
        assert scale is not None
        set_bias(node, new_constant(graph, f"{weight.inputs[0].name}.mark", np.full(len(scale), MARK, np.float32)))
        found += 1
    drop_unused(graph)
    return found


def loose_biases(graph: Graph) -> None:
    """Add biases after the products, in floating point, so that no runtime rounds them; in place."""
    ir = needed("onnx_ir")
    for node, _, _, bias in _biased(graph):
        dims = len(node.inputs[1].shape) if node.inputs[1].shape is not None else 2
        along = (-1, *(1 for _ in range(dims - 2))) if node.op_type == "Conv" else (-1,)
        value = new_constant(graph, f"{node.inputs[2].name}.apart", bias.reshape(along))
        node.replace_input_with(2, None)
        node.resize_inputs(2)
        end = node.outputs[0]
        added = ir.node("Add", [end, value])
        added.outputs[0].name = f"{end.name}.biased"
        added.outputs[0].shape, added.outputs[0].type = end.shape, end.type
        end.replace_all_uses_with(added.outputs[0], replace_graph_outputs=True)
        added.replace_input_with(0, end)
        graph.graph.insert_after(node, added)
    drop_unused(graph)


def whole_biases(graph: Graph) -> None:
    """Biases as int32 in units of their product, as integer kernels want them; in place.

    Codes are multiplied, and their scale divided, by the power of two that leaves them at most `MOST`: the same
    weights exactly, with a unit that is up to 64 times finer.
    """
    ir = needed("onnx_ir")
    for node, weight, given, bias in _biased(graph):
        codes, scale, step = (constant(value) for value in (*weight.inputs[:2], given.inputs[1]))
        assert codes is not None
        assert scale is not None
        assert step is not None
        times = 2 ** max((MOST // max(int(np.abs(codes.astype(np.int16)).max(initial=1)), 1)).bit_length() - 1, 0)
        unit = (scale / times * step).astype(np.float32)
        units = np.round(bias.astype(np.float64) / np.maximum(unit, 1e-38))
        if unit.shape != bias.shape or np.abs(units).max(initial=0) >= 2**31 or axis_of(weight) != 0:
            continue
        if times > 1:
            replace_weight(graph, node, weight, (codes * times).astype(np.int8), (scale / times).astype(np.float32))
        name = node.inputs[2].name
        inputs = [
            new_constant(graph, f"{name}.whole", units.astype(np.int32)),
            new_constant(graph, f"{name}.unit", unit),
            new_constant(graph, f"{name}.zero", np.zeros(len(unit), np.int32)),
        ]
        made = ir.node("DequantizeLinear", inputs, {"axis": 0})
        made.outputs[0].name = f"{inputs[0].name}.dequantized"
        graph.graph.insert_before(node, made)
        node.replace_input_with(2, made.outputs[0])
    drop_unused(graph)
