"""Other ways to say the same graph: codes in the narrowest types of ONNX, and the nodes of the QONNX convention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bitdial.export.onnx.folding import axis_of, constant, drop_unused, new_constant
from bitdial.export.onnx.graph import OPSET, Graph, layer_of, needed
from bitdial.export.onnx.weights import LayerPlan

QONNX = "qonnx.custom_op.general"
"""Domain of the nodes Quant and BipolarQuant (Pappalardo et al., QONNX, arXiv 2206.07527)."""

INT4_OPSET, INT2_OPSET = 21, 25
"""The operator sets that brought the types; ONNX Runtime 1.31 takes both, OpenVINO 2026.4 the first one only."""


def opset_for(style: str, plans: Mapping[str, LayerPlan]) -> int:
    """The lowest operator set in which a style can say these layers."""
    least = INT4_OPSET if any(8 < plan.activations <= 16 for plan in plans.values()) else OPSET
    if style != "native":
        return least
    widths = [_bits(plan.lowest, plan.highest, plan.odd)[0] for plan in plans.values() if plan.holds != "float32"]
    return max(least, INT2_OPSET if 2 in widths else INT4_OPSET if 4 in widths else least)


def _bits(lowest: int, highest: int, odd: bool) -> tuple[int, bool]:
    """Bits of the narrowest type that holds codes; and whether odd codes must be halved for that."""
    ways = [(lowest, highest, False)] + ([((lowest - 1) // 2, (highest - 1) // 2, True)] if odd else [])
    found = [
        (next(bits for bits in (2, 4, 8, 16) if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1)), halved)
        for low, high, halved in ways
    ]
    return min(found)


def narrow_codes(graph: Graph) -> None:
    """Hold codes of weights in int2 and int4 where they fit, as far as the graph's operator set has these types.

    The codes of a grid without a zero are all odd: halved and a half step shifted they need one bit less.
    """
    ir = needed("onnx_ir")
    opset = graph.graph.opset_imports[""]
    types = {2: (INT2_OPSET, ir.DataType.INT2), 4: (INT4_OPSET, ir.DataType.INT4)}
    made: dict[str, Any] = {}
    for node in list(graph.graph):
        codes = constant(node.inputs[0]) if node.op_type == "DequantizeLinear" else None
        scale = constant(node.inputs[1]) if codes is not None else None
        if codes is None or scale is None or codes.dtype != np.int8 or not codes.size:
            continue
        bits, halved = _bits(int(codes.min()), int(codes.max()), bool((codes % 2 != 0).all()))
        bits = next((each for each, (first, _) in types.items() if bits <= each and opset >= first), 8)
        if bits == 8:
            continue
        name = node.inputs[0].name
        if name not in made:
            held = (codes.astype(np.int16) - 1) // 2 if halved else codes
            kind = types[bits][1]
            made[name] = new_constant(
                graph,
                f"{name}.int{bits}",
                held,
                lambda free, held=held, kind=kind: ir.tensor(held.astype(np.int8), dtype=kind, name=free),
            )
        _narrow(graph, node, made[name], scale, halved)
    drop_unused(graph)


def _narrow(graph: Graph, node: Any, codes: Any, scale: np.ndarray, halved: bool) -> None:
    """Have a DequantizeLinear take narrow codes, which need no zero point.

    ONNX Runtime 1.31 fuses one of int2 into convolutions that know no int2, and then refuses the model; where the scale
    is multiplied after it, nothing is fused.
    """
    ir = needed("onnx_ir")
    axis = axis_of(node)
    along = [1] * len(codes.shape)
    along[axis] = -1
    steps = scale * 2 if halved else scale
    name = node.inputs[1].name
    apart = codes.dtype == ir.DataType.INT2 and not halved
    unit = new_constant(graph, f"{name}.unit", np.ones_like(scale) if apart else steps)
    nodes = [ir.node("DequantizeLinear", [codes, unit], {"axis": axis})]
    if apart:
        nodes.append(ir.node("Mul", [nodes[-1].outputs[0], new_constant(graph, f"{name}.step", steps.reshape(along))]))
    if halved:
        half = new_constant(graph, f"{name}.half", scale.reshape(along))
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], half]))
    for place, each in enumerate(nodes):
        each.outputs[0].name = f"{node.outputs[0].name}.narrow.{place}"
    graph.graph.insert_before(node, nodes)
    node.outputs[0].replace_all_uses_with(nodes[-1].outputs[0])
    graph.graph.remove(node, safe=True)


def to_qonnx(graph: Graph, plans: Mapping[str, LayerPlan]) -> None:
    """Say grids by nodes of the QONNX convention, with weights as float32 values on their grids; in place."""
    ir = needed("onnx_ir")
    names = set(plans)
    for node in list(graph.graph):
        if node.op_type != "DequantizeLinear":
            continue
        codes, scale = constant(node.inputs[0]), constant(node.inputs[1])
        if scale is None:
            continue
        if codes is not None:
            new = _quantized_weight(graph, node, codes, scale)
        else:
            layer = layer_of(node, names)
            width = math.ceil(plans[layer].activations - 1e-3) if layer else 8
            before = node.inputs[0].producer()
            zero = constant(node.inputs[2])
            inputs = [
                before.inputs[0],
                node.inputs[1],
                new_constant(graph, f"{node.inputs[1].name}.zero", np.float32(0 if zero is None else zero)),
                new_constant(graph, f"{node.inputs[1].name}.bits", np.float32(width)),
            ]
            new = ir.node("Quant", inputs, {"signed": 0, "narrow": 0, "rounding_mode": "ROUND"}, domain=QONNX)
        new.outputs[0].name = f"{node.outputs[0].name}.quant"
        new.metadata_props.update(node.metadata_props)
        graph.graph.insert_before(node, new)
        node.outputs[0].replace_all_uses_with(new.outputs[0])
        graph.graph.remove(node, safe=True)
    graph.graph.opset_imports[QONNX] = 1
    drop_unused(graph)


def _quantized_weight(graph: Graph, node: Any, codes: np.ndarray, scale: np.ndarray) -> Any:
    ir = needed("onnx_ir")
    along = [1] * codes.ndim
    along[axis_of(node)] = -1
    steps = scale.reshape(along)
    name = node.inputs[0].name
    values = new_constant(graph, f"{name}.values", codes.astype(np.float32) * steps)
    step = new_constant(graph, f"{name}.step", steps)
    if set(np.unique(codes).tolist()) <= {-1, 1}:
        return ir.node("BipolarQuant", [values, step], domain=QONNX)
    most, least = int(codes.max()), int(codes.min())
    width = next(bits for bits in range(2, 10) if -(2 ** (bits - 1)) <= least and most < 2 ** (bits - 1))
    narrow = int(least > -(2 ** (width - 1)))
    inputs = [
        values,
        step,
        new_constant(graph, f"{name}.zero", np.float32(0)),
        new_constant(graph, f"{name}.bits", np.float32(width)),
    ]
    return ir.node("Quant", inputs, {"signed": 1, "narrow": narrow, "rounding_mode": "ROUND"}, domain=QONNX)


def in_plain_nodes(model: Any) -> Any:
    """A copy of a model in which QONNX's nodes are what they mean, so that any runtime can run it."""
    onnx = needed("onnx")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    numbers = {each.name: onnx.numpy_helper.to_array(each) for each in made.graph.initializer}
    nodes = list(made.graph.node)
    del made.graph.node[:]
    for count, node in enumerate(nodes):
        made.graph.node.extend(_plain(onnx, node, f"plain.{count}", numbers, made) if node.domain == QONNX else [node])
    kept = [each for each in made.opset_import if each.domain != QONNX]
    del made.opset_import[:]
    made.opset_import.extend(kept)
    return made


def _plain(onnx: Any, node: Any, name: str, numbers: Mapping[str, Any], model: Any) -> list[Any]:
    """``scale * (clip(round(x / scale + zero), lowest, highest) - zero)``, or ``scale * sign(x)``."""
    make = onnx.helper.make_node
    x, scale = node.input[:2]
    if node.op_type == "BipolarQuant":
        return [make("Sign", [x], [f"{name}.sign"]), make("Mul", [f"{name}.sign", scale], [node.output[0]])]
    given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    width = float(numbers[node.input[3]])
    if given["signed"]:
        ends = -(2.0 ** (width - 1)) + given["narrow"], 2.0 ** (width - 1) - 1
    else:
        ends = 0.0, 2.0**width - 1 - given["narrow"]
    for end, value in zip(("lowest", "highest"), ends, strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), f"{name}.{end}"))
    return [
        make("Div", [x, scale], [f"{name}.steps"]),
        make("Add", [f"{name}.steps", node.input[2]], [f"{name}.place"]),
        make("Round", [f"{name}.place"], [f"{name}.whole"]),
        make("Clip", [f"{name}.whole", f"{name}.lowest", f"{name}.highest"], [f"{name}.code"]),
        make("Sub", [f"{name}.code", node.input[2]], [f"{name}.level"]),
        make("Mul", [f"{name}.level", scale], [node.output[0]]),
    ]
