"""Writing a network as a file of ONNX, with the proof that it computes the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.export.calibration import calibrated
from bitdial.export.onnx import file
from bitdial.export.onnx.arguments import check_choice, check_example, checked_path, inputs_of, run_once
from bitdial.export.onnx.biases import loose_biases, marked_biases
from bitdial.export.onnx.branches import quantize_branches
from bitdial.export.onnx.folding import constant_products, fold_batch_norms, own_zeros, replace_output
from bitdial.export.onnx.graph import exported, finished, layer_of
from bitdial.export.onnx.held import held_twin
from bitdial.export.onnx.parity import Agreement, Parity, Unfused, layer_codes, unfused
from bitdial.export.onnx.proving import options_of, proof
from bitdial.export.onnx.sessions import Session, value_ranges, with_outputs
from bitdial.export.onnx.styles import in_plain_nodes, narrow_codes, opset_for, to_qonnx
from bitdial.export.onnx.weights import LayerPlan
from bitdial.layers import QuantizedLayer
from bitdial.layers.names import check_model
from bitdial.numerics import UNQUANTIZED
from bitdial.trees import map_tensors, tensors

STYLES = ("qdq", "native", "qonnx")
FORMS = ("exact", "fast")

_CHECKED = 7  # examples that are compared node by node, not as many as the graph was traced with
_TIMED = 8
_CALIBRATED = 16  # batches for the grids of the fast form


@dataclass(frozen=True)
class OnnxFile:
    """What was written.

    Attributes:
        path, sidecar: the file, and the JSON beside it that says what its metadata say.
        style, form: as asked for.
        opset: version of the operator set.
        bytes: size of the file.
        float32_bytes: of the parameters and buffers of the network in float32.
        layers: how each quantized layer is held.
        session_options: entries that a session of ONNX Runtime needs to compute what the file says.
        parity: the proof.
        forms: how each form fares: agreement and seconds of a batch.
        timed: examples in that batch.
        notes: what else is to be known, a sentence each.
    """

    path: Path
    sidecar: Path
    style: str
    form: str
    opset: int
    bytes: int
    float32_bytes: int
    layers: Mapping[str, LayerPlan]
    session_options: Mapping[str, str]
    parity: Parity
    forms: Mapping[str, tuple[Agreement, float]] = field(default_factory=dict)
    timed: int = 0
    notes: tuple[str, ...] = ()


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    example: Any = None,
    *,
    style: str = "qdq",
    form: str = "exact",
    calibration: Iterable[Any] | None = None,
    test: Iterable[Any] | None = None,
    about: Mapping[str, Any] | None = None,
    sizes: bool = False,
) -> OnnxFile:
    """Write a network as a file of ONNX and prove that it computes the same; nothing is written where it does not.

    Args:
        model: bare or wrapped; it stays as it is.
        path: the file; ``path.json`` beside it says what its metadata say.
        example: one batch of inputs, a tensor or a tree of tensors; None: the first calibration batch. Batches of the
            file may have any size.
        style: ``"qdq"``: int8 codes between QuantizeLinear and DequantizeLinear, for ONNX Runtime and OpenVINO;
            ``"native"``: codes in int4 and int2, the smallest file, computed in floating point; ``"qonnx"``: Quant
            nodes, for tools of that convention.
        form: of style qdq. ``"exact"``: what was trained, and nothing else on a grid; ``"fast"``: what lies between the
            layers too, which ONNX Runtime fuses. Both are timed and compared.
        calibration: batches that give ranges to layers that have none, and to the fast form.
        test: batches of inputs, or of (inputs, labels), to compare classes on; None: calibration batches, or the
            example.
        about: ``mean`` and ``std`` of the inputs and ``classes``, for the metadata.
        sizes: whether pictures may have any size too, not only batches.

    Raises:
        BitdialError: the network cannot be written, which says why; a package is missing; the file computes something
            else; an argument is of another kind than said above.

    Example:
        >>> import torch
        >>> import bitdial as bd
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = bd.quantize(net, weights=4, activations=8, skip=[])
        >>> x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        >>> written = bd.export(net, "runs/net.onnx", x, calibration=[x])
        >>> written.parity.unfused.is_equal
        True
    """
    target = checked_path(path)
    check_choice("style", style, STYLES)
    check_choice("form", form, FORMS)
    if form == "fast" and style != "qdq":
        raise BitdialError(f'form "fast" is one of style qdq, got style {style}; leave form out')
    check_model(model)
    batches = None if calibration is None else inputs_of(calibration, "calibration")
    if example is None:
        if not batches:
            raise BitdialError("an example is needed to write the graph of a network; give a batch of inputs")
        example = batches[0]
    check_example(example)
    tested = None if test is None else inputs_of(test, "test")
    reference = calibrated(model, batches).cpu().float()
    run_once(reference, example)
    writing = _Writing(reference, example, style, [example] if batches is None else batches, sizes)
    model_of, parity, forms = writing.proven(form, tested or batches or [example])
    options = options_of(parity.traps)
    opset = next(each.version for each in model_of.opset_import if not each.domain)
    told = {
        "format_version": file.FORMAT_VERSION,
        "style": style,
        "form": form,
        "opset": opset,
        "session_options": options,
        **_told_inputs(model_of, about or {}),
        "parity": parity.as_json(),
        "layers": {name: asdict(plan) for name, plan in writing.plans.items()},
    }
    size = file.write(target, model_of, told)
    return OnnxFile(
        path=target,
        sidecar=file.sidecar_of(target),
        style=style,
        form=form,
        opset=opset,
        bytes=size,
        float32_bytes=_float32_bytes(reference),
        layers=writing.plans,
        session_options=options,
        parity=parity,
        forms=forms,
        timed=len(next(tensors(writing.timed))),
        notes=tuple(writing.notes),
    )


class _Writing:
    """A network on its way into a file."""

    def __init__(self, reference: nn.Module, example: Any, style: str, batches: list[Any], sizes: bool) -> None:
        self.reference, self.example, self.style, self.batches = reference, example, style, batches
        twin, self.plans = held_twin(reference)
        opset = opset_for(style, self.plans)
        self.graph, fixed = exported(twin, example, opset, sizes=sizes)
        if not fixed and not self._takes_one():
            self.graph, _ = exported(twin, example, opset, fixed=True)
            fixed = "the size of the example became a constant of its graph"
        fold_batch_norms(self.graph)
        self._hold_constants()
        own_zeros(self.graph)
        marked_biases(self.graph)
        self.codes = layer_codes(self.graph, self.plans)
        self.notes = [f'"{name}": {plan.reason}' for name, plan in self.plans.items() if plan.reason]
        if self.plans and all(plan.activations >= UNQUANTIZED for plan in self.plans.values()):
            self.notes.append(
                "no layer has quantized inputs, so runtimes compute in floating point: the file is small, not fast"
            )
        self.is_fixed = bool(fixed)
        self.timed = example if fixed else map_tensors(lambda x: x[:_TIMED], example)
        if fixed:
            size = len(next(tensors(example)))
            self.notes.append(f"batches have {size} examples, as the network cannot take others ({fixed})")

    def proven(self, form: str, test: list[Any]) -> tuple[Any, Parity, dict[str, tuple[Agreement, float]]]:
        """The model of a form, its proof, and how the forms fare: agreement and seconds of each."""
        apart = self.graph.clone()
        loose_biases(apart)
        exact = finished(apart, "bitdial")
        styled = self._styled()
        found = self._unfused(styled if self.style == "native" else exact)
        if styled is None:
            models = {"exact": exact, **self._fast(exact)}
            if form not in models:
                self.notes.append("nothing lies between layers that could be on a grid: the fast form is the exact one")
                models[form] = exact
        else:
            models = {form: styled}
        runnable = {name: in_plain_nodes(each) if self.style == "qonnx" else each for name, each in models.items()}
        if self.is_fixed:
            test = [batch for batch in test if len(next(tensors(batch))) == len(next(tensors(self.example)))]
        parity, fared = proof(self.reference, runnable, form, self.plans, found, test or [self.example], self.timed)
        return models[form], parity, fared

    def _hold_constants(self) -> None:
        """Hold what products of constants give, which OpenVINO 2026.4 computes wrongly, and others for every batch."""
        products = [node for node in constant_products(self.graph) if not node.outputs[0].is_graph_output()]
        if not products:
            return
        names = [node.outputs[0].name for node in products]
        session = Session(with_outputs(finished(self.graph.clone(), "bitdial"), names), fused=False)
        values = dict(zip(session.outputs, session(self.example), strict=True))
        for node, name in zip(products, names, strict=True):
            layer = layer_of(node, set(self.plans))
            if layer is not None:
                reason = "its input is the same for every example, so its output is held instead"
                self.plans[layer] = replace(self.plans[layer], holds="float32", reason=reason)
            replace_output(self.graph, node, values[name])

    def _unfused(self, model: Any) -> Unfused:
        batch = map_tensors(lambda x: x[:_CHECKED], self.example) if not self.is_fixed else self.example
        found = unfused(self.reference, model, self.codes, batch)
        if not found.is_equal:
            raise BitdialError(
                f"the file would not compute what the network computes: node by node, outputs differ by "
                f"{found.difference:.2g} of the largest, and {found.wrong:,} of {found.activations:,} codes do. "
                "Nothing was written; please report this. A packed file holds the network as it is"
            )
        return found

    def _takes_one(self) -> bool:
        """Whether the graph takes one example, and gives as many answers as in eager mode."""
        one = map_tensors(lambda x: x[:1], self.example)
        try:
            found = Session(finished(self.graph.clone(), "bitdial"), fused=False)(one)
        except Exception:  # whatever the runtime says of sizes that do not fit
            return False
        with torch.no_grad():
            outputs = list(tensors(self.reference(one)))
        return [each.shape for each in found] == [tuple(each.shape) for each in outputs]

    def _fast(self, exact: Any) -> dict[str, Any]:
        graph = self.graph.clone()
        batches = [self.example] if self.is_fixed else self.batches[:_CALIBRATED]
        added = quantize_branches(graph, lambda names: value_ranges(exact, names, batches))
        return {"fast": finished(graph, "bitdial")} if added else {}

    def _styled(self) -> Any:
        if self.style == "qdq":
            return None
        graph = self.graph.clone()
        if self.style == "native":
            narrow_codes(graph)
        else:
            to_qonnx(graph, self.plans)
        return finished(graph, "bitdial")


def _told_inputs(model: Any, about: Mapping[str, Any]) -> dict[str, Any]:
    """Names, shapes and dtypes of what goes in; None for a dimension of any size."""
    kinds = {1: "float32", 7: "int64", 6: "int32", 9: "bool", 10: "float16", 11: "float64"}
    found = []
    for each in model.graph.input:
        dims = each.type.tensor_type.shape.dim
        shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
        kind = kinds.get(each.type.tensor_type.elem_type, "other")
        found.append({"name": each.name, "shape": shape, "dtype": kind})
    first = {**found[0], "mean": list(about.get("mean", [])), "std": list(about.get("std", []))}
    more = {"inputs": found} if len(found) > 1 else {}
    outputs = [each.name for each in model.graph.output]
    return {"input": first, **more, "outputs": outputs, "classes": list(about.get("classes", []))}


def _float32_bytes(model: nn.Module) -> int:
    state = {id(v): v for v in (*model.parameters(), *model.buffers()) if v.is_floating_point()}
    learned = {
        id(v)
        for each in model.modules()
        if isinstance(each, QuantizedLayer)
        for name, v in (*each.named_parameters(), *each.named_buffers())
        if name not in ("weight", "bias")
    }
    return sum(4 * v.numel() for key, v in state.items() if key not in learned)
