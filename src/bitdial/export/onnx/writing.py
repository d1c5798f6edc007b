"""Writing a network as a file of ONNX, with the proof that it computes the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError, suggest
from bitdial.export.calibration import calibrated
from bitdial.export.onnx import file
from bitdial.export.onnx.biases import loose_biases, marked_biases
from bitdial.export.onnx.branches import quantize_branches
from bitdial.export.onnx.folding import fold_batch_norms, own_zeros
from bitdial.export.onnx.graph import exported, finished
from bitdial.export.onnx.held import LayerPlan, held_twin
from bitdial.export.onnx.parity import (
    ROUNDING,
    WHOLE_NUMBERS_OFF,
    Agreement,
    Parity,
    Unfused,
    agreements,
    layer_codes,
    openvino_session,
    unfused,
)
from bitdial.export.onnx.sessions import Session, seconds, value_ranges
from bitdial.export.onnx.styles import in_plain_nodes, narrow_codes, opset_for, to_qonnx
from bitdial.export.onnx.traps import Trap, expected_traps, is_far_off, openvino_trap, operators, ties
from bitdial.layers import QuantizedLayer
from bitdial.layers.names import check_model
from bitdial.numerics import UNQUANTIZED
from bitdial.trees import map_tensors, tensors

STYLES = ("qdq", "native", "qonnx")
FORMS = ("exact", "fast")
ENOUGH = 0.999
"""Share of equal classes from which on a session is taken to agree with the network."""

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
        fast: how the other form fares: agreement and seconds; None where there is no other.
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
    target = _checked_path(path)
    _check_choice("style", style, STYLES)
    _check_choice("form", form, FORMS)
    if form == "fast" and style != "qdq":
        raise BitdialError(f'form "fast" is one of style qdq, got style {style}; leave form out')
    check_model(model)
    batches = None if calibration is None else _inputs(calibration, "calibration")
    if example is None:
        if not batches:
            raise BitdialError("an example is needed to write the graph of a network; give a batch of inputs")
        example = batches[0]
    _check_example(example)
    tested = None if test is None else _inputs(test, "test")
    reference = calibrated(model, batches).cpu().float()
    _run(reference, example)
    writing = _Writing(reference, example, style, [example] if batches is None else batches, sizes)
    model_of, parity, forms = writing.proven(form, tested or batches or [example])
    options = {key: value for trap in parity.traps for key, value in trap.options.items()}
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
        own_zeros(self.graph)
        marked_biases(self.graph)
        self.codes = layer_codes(self.graph, self.plans)
        self.notes = [f'"{name}": {plan.reason}' for name, plan in self.plans.items() if plan.reason]
        if self.plans and all(plan.activations >= UNQUANTIZED for plan in self.plans.values()):
            self.notes.append(
                "no layer has quantized inputs, so runtimes compute in floating point: the file is small, not fast"
            )
        self.is_fixed = bool(fixed)
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
        traps = {name: expected_traps(operators(each), self.plans) for name, each in runnable.items()}
        sessions = {name: Session(each, _options(traps[name])) for name, each in runnable.items()}
        others: dict[str, Any] = {"default": Session(runnable[form])} if _options(traps[form]) else {}
        openvino = self._openvino(runnable[form])
        if openvino is not None and not isinstance(openvino, str):
            others["openvino"] = openvino
        if self.is_fixed:
            test = [batch for batch in test if len(next(tensors(batch))) == len(next(tensors(self.example)))]
        agreed = agreements(self.reference, {**sessions, **others}, test or [self.example])
        times = seconds(sessions, self.example if self.is_fixed else map_tensors(lambda x: x[:_TIMED], self.example))
        own = agreed[form]
        if own.difference > ROUNDING:
            traps[form].append(ties(own.difference))
        if "openvino" in agreed and is_far_off(agreed["openvino"].difference, own.difference):
            floats = self._openvino(runnable[form], WHOLE_NUMBERS_OFF)
            left = None
            if not isinstance(floats, str):
                left = agreements(self.reference, {"floats": floats}, test or [self.example])["floats"].difference
            traps[form].append(openvino_trap(self.plans, agreed["openvino"].difference, own.difference, left))
        traps[form] += _too_far(own, form)
        parity = Parity(
            unfused=found,
            session=own,
            default=agreed.get("default"),
            openvino=agreed.get("openvino", openvino if isinstance(openvino, str) else None),
            traps=tuple(traps[form]),
            seconds=times,
        )
        return models[form], parity, {name: (agreed[name], times[name]) for name in sessions}

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

    def _openvino(self, model: Any, properties: Mapping[str, str] | None = None) -> Any:
        try:
            return openvino_session(model, properties)
        except BitdialError as error:
            return str(error)


def _options(traps: Iterable[Trap]) -> dict[str, str]:
    return {key: value for trap in traps for key, value in trap.options.items()}


def _too_far(found: Agreement, form: str) -> list[Trap]:
    """What is to be said where a session tells too many classes apart from the network's."""
    if found.classes is None or found.classes >= ENOUGH:
        return []
    share = f"{100 * found.classes:.2f}% of {found.examples:,} examples get the same class"
    if form == "fast":
        remedy = "write the exact form, or calibrate with more batches"
        return [Trap("branches", f"the grids of 8 bits between the layers cost too much: {share}", remedy)]
    remedy = "train longer: a network that is sure of its classes does not change them for a step of one activation"
    return [
        Trap("unsure", f"the network is unsure of its classes, and a tie that is rounded moves them: {share}", remedy)
    ]


@torch.no_grad()
def _run(reference: nn.Module, example: Any) -> None:
    """Run the network once: it then knows which layers are read, and the example is known to fit."""
    try:
        found = reference(example)
    except BitdialError:
        raise
    except Exception as error:
        raise BitdialError(
            f"the network must take the example, got {type(error).__name__}: {' '.join(str(error).split())[:200]}; "
            "give one batch of inputs as it is called with"
        ) from error
    outputs = list(tensors(found))
    if not outputs:
        raise BitdialError(f"the network must give tensors, got {type(found).__name__}; wrap it in one that does")
    if any(each.is_floating_point() and not bool(each.isfinite().all()) for each in outputs):
        raise BitdialError("the network gives NaN or infinity for the example; check the network and the example")


def _checked_path(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise BitdialError(f"path must be the path of a file, got {type(path).__name__}")
    target = Path(path)
    if target.is_dir():
        raise BitdialError(f"path must be a file, got the folder {target}; e.g. {target / 'model.onnx'}")
    if target.suffix != ".onnx":
        raise BitdialError(f"path must end with .onnx, got {target.name!r}; programs know these files by that")
    return target


def _check_choice(option: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise BitdialError(f"{option} must be one of {', '.join(known)}, got {value!r}{suggest(str(value), known)}")


def _check_example(example: Any) -> None:
    given = list(tensors(example))
    if not given or any(not each.dim() or not len(each) for each in given):
        raise BitdialError(
            f"example must be a batch of inputs, a tensor or a tree of tensors with at least one example, got "
            f"{_shape(example)}"
        )


def _shape(example: Any) -> str:
    return f"a tensor of shape {tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__


def _inputs(batches: Any, what: str) -> list[Any]:
    """The inputs of batches, in memory."""
    if isinstance(batches, Tensor | str | bytes) or not isinstance(batches, Iterable):
        raise BitdialError(
            f"{what} batches must be an iterable of batches, got {type(batches).__name__}; pass a loader or a list"
        )
    found = [batch[0] if isinstance(batch, (tuple, list)) else batch for batch in islice(batches, 100_000)]
    if not found:
        raise BitdialError(f"{what} batches must be at least one, got none")
    return [map_tensors(lambda x: x.cpu().float() if x.is_floating_point() else x.cpu(), each) for each in found]


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
