"""A trained network, ready to predict: numpy or torch in and out, computed by the best that the machine has."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers import QuantizedLayer
from bitdial.numerics.native.build import UnavailableError
from bitdial.runtime.capture import traced
from bitdial.runtime.gpu.trial import device_for, interpreted, why_no_triton
from bitdial.runtime.kernels.trial import checked
from bitdial.runtime.plan import Plan
from bitdial.runtime.substitution import KernelLayer, OneDnnLayer, fits_onednn, onednn_saturates, substituted

Way: TypeAlias = Literal["kernels", "onednn", "fake", "triton"]
WAYS: dict[Way, tuple[str, ...]] = {
    "kernels": ("cpu",), "onednn": ("cpu",), "triton": ("cuda",), "fake": ("cpu", "cuda")
}  # fmt: skip
"""The ways, the best of a kind of device first, and the devices that take them by themselves."""
TOLD: dict[str, str] = {
    "triton": "packed weights, kernels of bitdial in Triton",
    "kernels": "packed weights, kernels of bitdial",
    "onednn": "int8 of oneDNN, through PyTorch",
    "fake": "fake quantization in floating point",
    "onnxruntime": "ONNX Runtime",
}

PLANS = 8
"""Shapes of inputs that a network keeps ready."""

Array: TypeAlias = Any  # numpy or torch


@dataclass(frozen=True)
class Chosen:
    """What computes a network.

    Attributes:
        way: kernels, onednn, triton, fake or onnxruntime.
        reasons: why not another one that comes before it.
        stayed: quantized layers that are computed in floating point all the same -> why.
        notes: what else is to be known.
    """

    way: str
    reasons: tuple[str, ...] = ()
    stayed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = TOLD[self.way]
        if self.reasons:
            told += f" ({'; '.join(self.reasons)})"
        if self.stayed:
            name, reason = self.stayed[0]
            told += f"; {len(self.stayed)} quantized layers in floating point, e.g. {name}: {reason}"
        return "; ".join([told, *self.notes])


def ways_of(device: torch.device, way: Way | None) -> list[Way]:
    """The ways to try on a device: the one that is asked for, or all that it has.

    Raises:
        BitdialError: it is none of the device.
    """
    offered = [each for each, kinds in WAYS.items() if device.type in kinds]
    if way is None:
        return offered
    if way not in offered and not (way == "triton" and interpreted()):
        raise BitdialError(f"way {way} is not one of {device}, which has {', '.join(offered)}; leave way or device out")
    return [way]


def why_no_kernels() -> str:
    """Why this machine has no kernels; empty where it has."""
    try:
        checked()
    except UnavailableError as error:
        return str(error)
    return ""


class Network:
    """A network that is called with a batch of inputs, float32, and gives what the trained one gives.

    Any number of threads of Python may call it at the same time.

    Args:
        model: in evaluation mode, on static grids (`bitdial.export.calibration.calibrated`).
        threads: what the kernels compute on; what is left to PyTorch takes `torch.get_num_threads()`.
        way: "kernels", "onednn", "triton" or "fake"; None: the first that the device has.
        device: "cpu", or "cuda" for a GPU; None: the CPU, but for the way "triton" a GPU.
        described: what is known of the network.
        notes: what is to be told with what computes it.

    Attributes:
        chosen: what computes it, and why.
        described: what is known of the network, where it was loaded.
        device: where it is computed.

    Raises:
        BitdialError: the machine does not have the way or the device that is asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        threads: int = 1,
        way: Way | None = None,
        *,
        device: torch.device | str | None = None,
        described: Any = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.threads = threads
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._lock = threading.Lock()
        self._graph: Any = None
        self._call: Callable[..., Any] = model
        self.described = described
        self.device = device_for(way, device)
        reasons, reason = list[str](), ""
        for each in ways_of(self.device, way):
            reason = getattr(self, f"_take_{each}")(model.eval())
            if not reason:
                self.chosen = Chosen(each, tuple(reasons), tuple(self._stayed.items()), notes)
                return
            reasons.append(f"no {each}: {reason}")
        raise BitdialError(f"way {way} is not to be had here: {reason}; leave way out for the best that there is")

    def _take_kernels(self, model: nn.Module) -> str:
        self._stayed: dict[str, str] = {}
        reason = why_no_kernels()
        if reason:
            return reason
        if not any(isinstance(module, QuantizedLayer) for module in model.modules()):
            return "nothing of the network is quantized"
        network, self._stayed = substituted(model, KernelLayer, self.threads)
        if not any(isinstance(module, KernelLayer) for module in network.modules()):
            return next(iter(self._stayed.values()))
        graph = traced(network)
        self._call, self._graph = network, None if isinstance(graph, str) else graph
        return ""

    def _take_onednn(self, model: nn.Module) -> str:
        self._stayed = {}
        if onednn_saturates() is None:
            return "PyTorch has no oneDNN here"
        network, self._stayed = substituted(model, OneDnnLayer, self.threads, fits_onednn)
        self._call = network
        if not any(isinstance(module, OneDnnLayer) for module in network.modules()):
            return "no layer of the network fits it"
        return ""

    def _take_triton(self, model: nn.Module) -> str:
        self._stayed = {}
        reason = why_no_triton(self.device)
        if reason:
            return reason
        from bitdial.runtime.gpu.layers import TritonLayer

        network, self._stayed = substituted(model, TritonLayer, self.threads)
        if not any(isinstance(module, TritonLayer) for module in network.modules()):
            return next(iter(self._stayed.values()), "nothing of the network is quantized")
        self._call = network.to(self.device)
        return ""

    def _take_fake(self, model: nn.Module) -> str:
        self._stayed = {}
        self._call = model if self.device.type == "cpu" else copy.deepcopy(model).to(self.device)
        return ""

    def __call__(self, *inputs: Array) -> Any:
        """The output for a batch; arrays of numpy for arrays of numpy, else tensors.

        Raises:
            BitdialError: an input is no array of numbers, has no batch, or is of another shape than the network takes.
        """
        given = tuple(as_tensor(each, self.device) for each in inputs)
        with torch.no_grad():
            try:
                y = self._run(given)
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                shapes = ", ".join(str(tuple(each.shape)) for each in given if isinstance(each, Tensor))
                raise BitdialError(
                    f"the network cannot take inputs of the shape {shapes}: {' '.join(str(error).split())[:200]}; "
                    "give (batch, ...) as it was trained"
                ) from error
        return _as_given(y, inputs[0]) if inputs else y

    def plan(self, *inputs: Tensor) -> Plan | None:
        """How inputs of this shape are computed; None where the network has no graph."""
        if self._graph is None or not all(isinstance(each, Tensor) for each in inputs):
            return None
        key = tuple(tuple(each.shape[1:]) for each in inputs)
        found = self._plans.get(key)
        if found is None:
            with self._lock:
                found = self._plans.get(key)
                if found is None:
                    with np.errstate(all="ignore"):  # a network with NaN gives NaN
                        found = Plan(self._graph, inputs)
                    while len(self._plans) >= PLANS:
                        self._plans.pop(next(iter(self._plans)))
                    self._plans[key] = found
        return found

    def _run(self, inputs: tuple[Any, ...]) -> Any:
        plan = self.plan(*inputs)
        return self._call(*inputs) if plan is None else plan(inputs, self.threads)


def as_tensor(value: Any, device: torch.device | str = "cpu") -> Any:
    """A tensor on a device, or a dict of such, of what a network is called with.

    Raises:
        BitdialError: it is no array of numbers, or has no batch.
    """
    if isinstance(value, dict):
        return {name: as_tensor(each, device) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise BitdialError(f"inputs must be numbers, got an array of {value.dtype}; convert it to float32")
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        raise BitdialError(f"inputs must be an array of numpy or a tensor, got {type(value).__name__}")
    if value.dim() == 0:
        raise BitdialError("inputs must have a batch as their first dimension, got a single number")
    is_float = value.is_floating_point() or value.dtype == torch.uint8
    return value.detach().to(device, torch.float32 if is_float else value.dtype)


def _as_given(y: Any, like: Any) -> Any:
    first = next(iter(like.values())) if isinstance(like, dict) and like else like
    if not isinstance(y, Tensor):
        return y
    return y.cpu().numpy() if isinstance(first, np.ndarray) else y.to(first.device)
