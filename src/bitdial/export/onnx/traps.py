"""Where a default session of ONNX Runtime computes something else than the file says: each by name, with its remedy.

Every one of them was met: on a processor without VNNI at ONNX Runtime 1.31, two layers with 8-bit weights and inputs
differed by 5% of the largest output.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitdial.export.onnx.graph import needed
from bitdial.export.onnx.sessions import opened
from bitdial.export.onnx.weights import LayerPlan
from bitdial.numerics.reference import level_count

BITS = "session.qdq_matmulnbits_accuracy_level"
SATURATION = "session.x64quantprecision"

LARGEST_PAIR = 2**15 - 1
"""What the sum of two products may reach where it is held in 16 signed bits, as without VNNI."""


@dataclass(frozen=True)
class Trap:
    """One way in which a default session differs from the file.

    Attributes:
        name: ``"matmulnbits"``, ``"saturation"``, ``"ties"``, ...
        what: what happens, in a sentence.
        remedy: what to do.
        options: entries of a session's configuration that avoid it.
    """

    name: str
    what: str
    remedy: str
    options: Mapping[str, str] = field(default_factory=dict)


def operators(model: Any) -> set[str]:
    """Names of the operators that ONNX Runtime makes of a model in a default session."""
    onnx = needed("onnx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fused.onnx"
        opened(model.SerializeToString(), optimized_model_filepath=str(path))
        return {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}


def expected_traps(found: set[str], plans: Mapping[str, LayerPlan]) -> list[Trap]:
    """Those that follow from the operators of a default session and the codes of the layers, on whatever machine.

    Args:
        found: what `operators` gave.
        plans: how the layers are held.
    """
    traps = []
    if "MatMulNBits" in found:
        traps.append(
            Trap(
                "matmulnbits",
                "ONNX Runtime turns DequantizeLinear and MatMul into MatMulNBits, which rounds the inputs to 8 bits "
                "anew (off by about .4%)",
                f"set {BITS} to 1, which computes in float32 and is exact",
                {BITS: "1"},
            )
        )
    saturating = [name for name, plan in plans.items() if _may_saturate(plan)]
    if saturating and found & {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger"}:
        traps.append(
            Trap(
                "saturation",
                "on processors without VNNI, ONNX Runtime adds products of bytes in 16 bits, which overflow where "
                f"codes of weights are above 64 ({_some(saturating)})",
                f"set {SATURATION} to 1, or train these layers at 6 bits",
                {SATURATION: "1"},
            )
        )
    return traps


def is_far_off(found: float, own: float) -> bool:
    """Whether OpenVINO is much further off than ONNX Runtime; both are shares of the largest output."""
    return found > max(3 * own, 0.03)


def openvino_trap(plans: Mapping[str, LayerPlan], found: float, own: float, in_floats: float | None) -> Trap:
    """What is to be said where OpenVINO is much further off than ONNX Runtime.

    Args:
        plans: how the layers are held.
        found: largest difference of OpenVINO's outputs, as a share of the largest.
        own: the same of ONNX Runtime.
        in_floats: the same of OpenVINO where it computes quantized layers in floating point; None: it could not.
    """
    off = f"OpenVINO is off by {found:.2g} of the largest output, ONNX Runtime by {own:.2g}"
    floats = ""
    if in_floats is not None and not is_far_off(in_floats, own):
        floats = f'compile the file with {{"LP_TRANSFORMS_MODE": "NO"}}: OpenVINO is then off by {in_floats:.2g}'
    saturating = [name for name, plan in plans.items() if _may_saturate(plan)]
    if saturating:
        return Trap(
            "openvino saturation",
            f"{off}: without VNNI it adds products of bytes in 16 bits, which overflow where codes of weights are "
            f"above 64 ({_some(saturating)})",
            "train these layers at 6 bits" + (f", or {floats}, and slower" if floats else ""),
        )
    what = f"{off}; its rewriting into whole numbers changes what this file computes"
    if not floats:
        does = "does not compute it" if in_floats is None else "is off no less"
        what = f"{off}, and {does} in floating point"
    return Trap("openvino", what, f"{floats}, and slower" if floats else "run this file in ONNX Runtime")


def openvino_refusal(reason: str) -> Trap:
    """What is to be said where OpenVINO takes a file in floating point alone."""
    return Trap(
        "openvino refusal",
        f"{reason.partition('; ')[0]}; what is said of OpenVINO here is of floating point",
        'compile the file with {"LP_TRANSFORMS_MODE": "NO"}',
    )


def _may_saturate(plan: LayerPlan) -> bool:
    if plan.holds not in ("codes", "half") or plan.activations > 16:
        return False
    last = level_count(plan.activations) - 1
    return 2 * last * max(-plan.lowest, plan.highest) > LARGEST_PAIR


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def ties(difference: float) -> Trap:
    """The one that is left: fusion changes the order of roundings, and a value between two codes goes the other way."""
    return Trap(
        "ties",
        "fusing changes the last bit of sums, so that values that lie between two codes are rounded the other way; the "
        f"outputs move by up to {difference:.2g} of the largest",
        "none is needed: a tie has no right side, and the figures above say what they do",
    )
