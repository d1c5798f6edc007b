"""Batch norms into the scales of the weights before them; graphs change in place.

``y = gain * (scale * sum(codes * x) + bias) + shift`` is a product with the scale ``gain * scale`` and another bias. A
scale must be above zero, so the sign of a negative gain goes into the codes: ternary weights stay ternary.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bitdial.export.onnx.graph import Graph, needed

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Nodes whose second input is a weight."""

_TINY = np.finfo(np.float32).tiny


def constant(value: Any) -> np.ndarray | None:
    """The numbers of a value that is a constant, else None."""
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    made = value.producer()
    if made is not None and made.op_type == "Constant" and "value" in made.attributes:
        return np.asarray(made.attributes["value"].as_tensor().numpy())
    return None


def new_constant(graph: Graph, name: str, numbers: Any, dtype: Any = None) -> Any:
    """A new initializer of the graph, whose name begins with `name`."""
    ir = needed("onnx_ir")
    taken, free, count = graph.graph.initializers, name, 0
    while free in taken:
        count += 1
        free = f"{name}.{count}"
    tensor = ir.tensor(np.array(numbers, order="C"), name=free) if dtype is None else dtype(free)
    value = ir.Value(name=free, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.graph.register_initializer(value)
    return value


def dequantized_weight(node: Any) -> Any:
    """The DequantizeLinear that gives the weight of a product, if it is one with constant codes."""
    if node.op_type not in PRODUCTS or node.inputs[1] is None:
        return None
    made = node.inputs[1].producer()
    found = made is not None and made.op_type == "DequantizeLinear" and constant(made.inputs[0]) is not None
    return made if found else None


def axis_of(node: Any) -> int:
    """The dimension of its output that a DequantizeLinear has scales for."""
    attribute = node.attributes.get("axis")
    return 1 if attribute is None else int(attribute.as_int())


def fold_batch_norms(graph: Graph) -> int:
    """Fold every batch norm that alone follows a product with whole-number weights; how many were folded."""
    count = 0
    for node in list(graph.graph):
        product = node.inputs[0].producer() if node.op_type == "BatchNormalization" else None
        if product is not None and product.op_type in ("Conv", "ConvTranspose", "Gemm") and _fold(graph, product, node):
            count += 1
    drop_unused(graph)
    return count


def _fold(graph: Graph, product: Any, norm: Any) -> bool:
    weight = dequantized_weight(product)
    numbers = [constant(value) for value in norm.inputs[1:]]
    if weight is None or any(each is None for each in numbers) or len(product.outputs[0].uses()) != 1:
        return False
    if product.outputs[0].is_graph_output():
        return False
    gamma, beta, mean, variance = (np.asarray(each, np.float64) for each in numbers)
    epsilon = norm.attributes.get("epsilon")
    gain = gamma / np.sqrt(variance + (1e-5 if epsilon is None else epsilon.as_float()))
    codes, scale, axis = constant(weight.inputs[0]), constant(weight.inputs[1]), axis_of(weight)
    assert codes is not None
    assert scale is not None
    if scale.shape != gain.shape or codes.shape[axis] != len(gain):
        return False
    along = [1] * codes.ndim
    along[axis] = -1
    turned = codes.astype(np.int16) * np.where(gain < 0, -1, 1).reshape(along)
    if turned.max(initial=0) > 127:  # -128 has no opposite
        return False
    own = constant(product.inputs[2]) if len(product.inputs) > 2 and product.inputs[2] is not None else 0.0
    if own is None:
        return False
    scales = np.maximum(np.abs(gain) * scale, _TINY).astype(np.float32)
    replace_weight(graph, product, weight, turned.astype(np.int8), scales)
    _replace_bias(graph, product, (own * gain + beta - mean * gain).astype(np.float32))
    norm.outputs[0].replace_all_uses_with(product.outputs[0], replace_graph_outputs=True)
    graph.graph.remove(norm, safe=True)
    return True


def replace_weight(graph: Graph, product: Any, old: Any, codes: np.ndarray, scales: np.ndarray) -> None:
    """Give a product other codes and scales than those of a DequantizeLinear, which others may use as it is."""
    ir = needed("onnx_ir")
    name = old.inputs[0].name
    inputs = [new_constant(graph, name, codes), new_constant(graph, old.inputs[1].name, scales), old.inputs[2]]
    made = ir.node("DequantizeLinear", inputs, {"axis": axis_of(old)})
    made.metadata_props.update(old.metadata_props)
    made.outputs[0].name = f"{inputs[0].name}.dequantized"  # a layer that is called twice has two of them
    made.outputs[0].shape, made.outputs[0].type = old.outputs[0].shape, old.outputs[0].type
    graph.graph.insert_before(product, made)
    product.replace_input_with(1, made.outputs[0])


def _replace_bias(graph: Graph, product: Any, bias: np.ndarray) -> None:
    name = product.inputs[1].producer().inputs[0].name.removesuffix("codes") + "bias"
    set_bias(product, new_constant(graph, name, bias))


def set_bias(product: Any, value: Any) -> None:
    """Give a product a third input."""
    if len(product.inputs) < 3:
        product.resize_inputs(3)
    product.replace_input_with(2, value)


def constant_products(graph: Graph) -> list[Any]:
    """Products whose output is the same for every input, such as those that embed positions."""
    moving = set(graph.graph.inputs)
    found = []
    for node in graph.graph:
        if any(value in moving for value in node.inputs):
            moving.update(node.outputs)
        elif node.op_type in PRODUCTS:
            found.append(node)
    return found


def replace_output(graph: Graph, node: Any, numbers: np.ndarray) -> None:
    """Put numbers in the place of a node's output."""
    held = new_constant(graph, f"{node.outputs[0].name}.held", numbers)
    node.outputs[0].replace_all_uses_with(held)
    drop_unused(graph)


def drop_unused(graph: Graph) -> None:
    """Take out nodes and constants that nothing uses."""
    passes = needed("onnx_ir.passes.common")
    passes.RemoveUnusedNodesPass()(graph)


def own_zeros(graph: Graph) -> None:
    """Give each weight a zero point of its own: equal ones were made one, which ONNX Runtime cannot rewrite."""
    for node in graph.graph:
        if node.op_type == "DequantizeLinear" and len(node.inputs) > 2 and node.inputs[0].is_initializer():
            zeros = constant(node.inputs[2])
            if zeros is not None and len(node.inputs[2].uses()) > 1:
                node.replace_input_with(2, new_constant(graph, f"{node.inputs[0].name}.zero", zeros))
