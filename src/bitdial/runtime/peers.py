"""The same network in other people's runtimes, to measure beside: float32, and int8 as their own quantizers make it.

All get the same weights, on their grid, as float32; each is asked for the same threads. Times are taken in turn, round
by round, so that whatever else the machine does meets all alike, and compared round by round.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitdial.layers import QuantizedLayer
from bitdial.layers.convert import KINDS
from bitdial.machine import version
from bitdial.runtime.network import Network

Run = Callable[[], Any]
"""Computes the batch that it was made for, and gives the output."""


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        model: the network on static grids, which the runtime computes.
        trained: the network as it was trained, which outputs are compared with.
        plain: the same in floating point.
        x: the batch.
        threads: of one call.
        calibration: batches for quantizers of others.
    """

    model: nn.Module
    trained: nn.Module
    plain: nn.Module
    x: Tensor
    threads: int
    calibration: tuple[Tensor, ...]


@dataclass(frozen=True)
class Peer:
    """A way to compute a network.

    Attributes:
        make: prepares it.
        packages: that must be installed.
        arithmetic: "float32" or "int8" for other people's; else "own".
        slow: whether preparing it takes long, so that it is measured where it is asked for alone.
    """

    make: Callable[[Case], Run]
    packages: tuple[str, ...] = ()
    arithmetic: str = "own"
    slow: bool = False

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.packages if version(package) is None]


def in_floats(model: nn.Module) -> nn.Module:
    """A copy with plain layers in the place of quantized ones, their weights as they are on the grid."""
    made = copy.deepcopy(model).eval()
    plain = {quantized: kind for kind, quantized in KINDS.items()}
    for name, layer in list(made.named_modules()):
        if isinstance(layer, QuantizedLayer):
            shape = {part: getattr(layer, part) for part in layer._shape}
            new = plain[type(layer)](**shape, bias=layer.bias is not None)
            with torch.no_grad():
                new.weight.copy_(layer.quantized_weight())
                if layer.bias is not None:
                    new.bias.copy_(layer.bias)
            parent, _, own = name.rpartition(".")
            setattr(made.get_submodule(parent), own, new.eval())
    return made


def _bitdial(way: Any) -> Callable[[Case], Run]:
    def make(case: Case) -> Run:
        network = Network(case.model, case.threads, way)
        return lambda: network(case.x)

    return make


def _eager(case: Case) -> Run:
    return lambda: case.plain(case.x)


def _inductor(case: Case) -> Run:
    import torch._inductor.config as config

    with config.patch(freezing=True):
        compiled = torch.compile(case.plain)
        compiled(case.x)
    return lambda: compiled(case.x)


def onnx_bytes(case: Case) -> bytes:
    """The float network as ONNX, for the batch's own shape."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        torch.onnx.export(case.plain, (case.x,), path, dynamo=False, opset_version=17, input_names=["x"])
        return path.read_bytes()


def _session(data: bytes, case: Case) -> Run:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads, settings.log_severity_level = case.threads, 1, 4
    session = onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: case.x.numpy()}
    return lambda: session.run(None, given)[0]


def _onnxruntime(case: Case) -> Run:
    return _session(onnx_bytes(case), case)


def _onnxruntime_int8(case: Case) -> Run:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter([{"x": each.numpy()} for each in case.calibration])

        def get_next(self) -> Any:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, made = (Path(folder, f"{name}.onnx") for name in ("plain", "ready", "made"))
        plain.write_bytes(onnx_bytes(case))
        quant_pre_process(os.fspath(plain), os.fspath(ready))
        quantize_static(
            os.fspath(ready), os.fspath(made), Reader(), per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
        return _session(made.read_bytes(), case)


def _openvino(case: Case, *, int8: bool = False) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(io.BytesIO(onnx_bytes(case)))
    if int8:
        import nncf

        data = nncf.Dataset([each.numpy() for each in case.calibration])
        model = nncf.quantize(model, data, subset_size=len(case.calibration))
    settings = {
        "INFERENCE_NUM_THREADS": case.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }  # fmt: skip
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    given = {0: case.x.numpy()}
    return lambda: request.infer(given, share_inputs=True)[0]


def _openvino_int8(case: Case) -> Run:
    return _openvino(case, int8=True)


BITDIAL, FLOAT32 = "bitdial kernels", "ONNX Runtime float32"
PEERS: Mapping[str, Peer] = {
    BITDIAL: Peer(_bitdial("kernels")),
    "bitdial oneDNN int8": Peer(_bitdial("onednn")),
    "bitdial in floats": Peer(_bitdial("fake")),
    "PyTorch float32": Peer(_eager, arithmetic="float32"),
    "PyTorch float32, compiled": Peer(_inductor, arithmetic="float32", slow=True),
    FLOAT32: Peer(_onnxruntime, ("onnx", "onnxruntime"), "float32"),
    "ONNX Runtime int8": Peer(_onnxruntime_int8, ("onnx", "onnxruntime"), "int8"),
    "OpenVINO float32": Peer(_openvino, ("onnx", "openvino"), "float32"),
    "OpenVINO int8": Peer(_openvino_int8, ("onnx", "openvino", "nncf"), "int8", slow=True),
}
"""Name -> how it is made."""


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Timed:
    """What one way takes.

    Attributes:
        seconds: of each round.
        difference: of its output from that of the network as it was trained, relative.
        agreement: share of examples with the same class.
        failure: why it was not measured; then there is nothing else.
    """

    seconds: tuple[float, ...] = ()
    difference: float = 0.0
    agreement: float = 0.0
    failure: str = ""

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.seconds)

    def times_faster(self, other: Timed) -> float:
        """Than another way: the median of the rounds' ratios."""
        pairs = zip(other.seconds, self.seconds, strict=True)
        return statistics.median(theirs / mine for theirs, mine in pairs)


@torch.no_grad()
def measured(
    case: Case, names: tuple[str, ...], rounds: int, tell: Callable[[str], None] = lambda name: None
) -> dict[str, Timed]:
    """Time some ways in turn.

    On one thread processor time is taken, which other programs on the machine do not add to; else that of the clock.
    """
    clock = time.process_time if case.threads == 1 else time.perf_counter
    reference = case.trained(case.x)
    runs: dict[str, Run] = {}
    found: dict[str, Timed] = {}
    with _threads(case.threads), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        for name in names:
            peer = PEERS[name]
            tell(name)
            if peer.missing:
                found[name] = Timed(failure=f"{', '.join(peer.missing)} not installed")
                continue
            try:
                runs[name] = peer.make(case)
                y = torch.as_tensor(np.asarray(runs[name]()))
                found[name] = Timed((), *_compared(y, reference))
            except Exception as error:  # whatever others raise is why they are not measured
                runs.pop(name, None)
                found[name] = Timed(failure=" ".join(str(error).split())[:120] or type(error).__name__)
        tell("")
        times = _in_turn(runs, rounds, clock)
    return {
        name: each if each.failure else Timed(tuple(times[name]), each.difference, each.agreement)
        for name, each in found.items()
    }


def _in_turn(runs: Mapping[str, Run], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for number in range(rounds):
        first = number % max(len(order), 1)
        for name in order[first:] + order[:first]:
            runs[name]()  # so that its weights are in the cache as they are in a loop of its own
            time.sleep(0.002)  # threads of another runtime stop waiting for work
            start = clock()
            runs[name]()
            times[name].append(clock() - start)
    return times


def _compared(y: Tensor, reference: Tensor) -> tuple[float, float]:
    y, reference = y.float().reshape(len(reference), -1), reference.reshape(len(reference), -1)
    difference = float((y - reference).norm() / reference.norm().clamp_min(1e-30))
    return difference, float((y.argmax(1) == reference.argmax(1)).float().mean())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Others say much when they are prepared."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
