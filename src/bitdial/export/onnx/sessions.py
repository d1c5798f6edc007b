"""Running files: ONNX Runtime as the file says or node by node, and how long it takes."""

from __future__ import annotations

import re
import statistics
import textwrap
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bitdial.errors import BitdialError
from bitdial.export.onnx.graph import needed
from bitdial.trees import tensors

DEFAULT: Mapping[str, str] = {}

WHOLE_NUMBERS_OFF = {"LP_TRANSFORMS_MODE": "NO"}
"""Property of OpenVINO's processor plugin that has quantized layers computed in floating point (2026.4 takes it)."""


def opened(source: bytes | str, options: Mapping[str, str] = DEFAULT, **settings: Any) -> Any:
    """A session of ONNX Runtime on the CPU, which keeps its warnings to itself; whatever it raises comes through.

    Args:
        source: a serialized model, or the path of a file.
        options: configuration entries.
        **settings: attributes of its ``SessionOptions``.
    """
    runtime = needed("onnxruntime")
    asked = runtime.SessionOptions()
    asked.log_severity_level = 4
    for key, value in options.items():
        asked.add_session_config_entry(key, value)
    for name, value in settings.items():
        setattr(asked, name, value)
    return runtime.InferenceSession(source, asked, providers=["CPUExecutionProvider"])


class Session:
    """A model in ONNX Runtime on the CPU; called with a batch, gives its outputs.

    Args:
        model: the model.
        options: configuration entries, as they stand under ``session_options`` in a file's metadata.
        fused: whether nodes may be changed and fused; False runs them one by one as they stand in the file.
        threads: of one operator; None: as many as there are processors.

    Raises:
        BitdialError: this ONNX Runtime cannot take the model.
    """

    def __init__(
        self, model: Any, options: Mapping[str, str] = DEFAULT, *, fused: bool = True, threads: int | None = None
    ) -> None:
        runtime = needed("onnxruntime")
        settings: dict[str, Any] = {} if threads is None else {"intra_op_num_threads": threads}
        if not fused:
            settings["graph_optimization_level"] = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self.session = opened(model.SerializeToString(), options, **settings)
        except Exception as error:  # its errors have no class of their own
            reason = " ".join(str(error).split())[:300]
            opset = next((each.version for each in model.opset_import if not each.domain), 0)
            raise BitdialError(
                f"ONNX Runtime {runtime.__version__} cannot run this model (operator set {opset}, format "
                f"{model.ir_version}): {reason}; install a newer onnxruntime, or choose another style"
            ) from error
        self.names = [each.name for each in self.session.get_inputs()]
        self.outputs = [each.name for each in self.session.get_outputs()]

    def __call__(self, batch: Any) -> list[np.ndarray]:
        """All outputs for a batch: a tensor, or the tensors of a tree in order."""
        return self.session.run(None, self.feed(batch))  # type: ignore[no-any-return]

    def feed(self, batch: Any) -> dict[str, np.ndarray]:
        """A batch as the session takes it."""
        values = [each.detach().cpu().numpy() for each in tensors(batch)]
        return dict(zip(self.names, values, strict=True))


def with_outputs(model: Any, names: Iterable[str]) -> Any:
    """A copy of a model that gives more of its values, after its own outputs."""
    onnx = needed("onnx")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    own = {each.name for each in made.graph.output}
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in own)
    return made


def value_ranges(model: Any, names: list[str], batches: Iterable[Any]) -> dict[str, tuple[float, float]]:
    """Smallest and largest of some values over batches, averaged over the batches, as layers measure their ranges."""
    session = Session(with_outputs(model, names), fused=False)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for batch in batches:
        values = dict(zip(session.outputs, session(batch), strict=True))
        for name in names:
            found[name].append((float(values[name].min()), float(values[name].max())))
    return {
        name: (float(np.mean([e[0] for e in ends])), float(np.mean([e[1] for e in ends])))
        for name, ends in found.items()
    }


def seconds(sessions: Mapping[str, Session], batch: Any, rounds: int = 7) -> dict[str, float]:
    """Median time of one call of each, in turn, so that what else the machine does meets all alike."""
    fed = {name: each.feed(batch) for name, each in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for lap in range(rounds + 1):
        for name, each in sessions.items():
            start = time.perf_counter()
            each.session.run(None, fed[name])
            if lap:  # the first one warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def openvino_session(model: Any, properties: Mapping[str, str] | None = None) -> Any:
    """The model in OpenVINO in float32, or None where that is not installed.

    Args:
        model: the model.
        properties: further properties that it is compiled with.

    Raises:
        BitdialError: OpenVINO cannot take the model.
    """
    try:
        import openvino
    except ImportError:
        return None
    try:
        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", **(properties or {})}  # some would take bfloat16
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    except Exception as error:
        version = openvino.__version__.split("-")[0]
        raise BitdialError(f"OpenVINO {version} cannot run this file ({_reason(error)}); ONNX Runtime can") from error
    inputs, outputs = [each.any_name for each in compiled.inputs], compiled.outputs

    def run(batch: Any) -> list[np.ndarray]:
        fed = {name: each.detach().numpy() for name, each in zip(inputs, tensors(batch), strict=True)}
        found = compiled(fed)
        return [np.array(found[each]) for each in outputs]

    return run


def _reason(error: Exception) -> str:
    """What OpenVINO says, without the places in its source and what it has instead."""
    text = re.sub(r"(Exception from|Check '[^']*' failed at) \S+:\d*:?", "", " ".join(str(error).split()))
    return textwrap.shorten(text.partition(" expected: ")[0], 160, placeholder=" ...")
