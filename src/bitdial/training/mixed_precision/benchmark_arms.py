"""The ways that a benchmark compares: copies of a network that train side by side, each in its format."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.training.step.float8 import convert_to_float8
from bitdial.training.step.formats import FLOAT8, autocast_dtype, format_name, mixed_precision_context

KEPT = "kept for the backward pass"
ALLOCATED = "peak allocated on the GPU"

WARM_UP = 3
"""Steps of each way before the clock runs: kernels are chosen, caches filled, the loss scale settles."""

Batch = tuple[Tensor, Tensor]
Criterion = Callable[[Any, Any], Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
Way = tuple[torch.dtype, bool | None]
"""The format, and whether TF32 is on; None leaves that as it is."""


def ways(narrow: torch.dtype, device: torch.device) -> list[tuple[str, Way]]:
    """Return what is compared, by name: float32, the narrow format; on CUDA also float32 with TF32 off and on."""
    found: list[tuple[str, Way]] = [("float32", (torch.float32, None)), (format_name(narrow), (narrow, None))]
    if device.type == "cuda":
        found += [("float32, TF32 off", (torch.float32, False)), ("float32, TF32 on", (torch.float32, True))]
    return found


class Arm:
    """A copy of the model that trains in one way; made when it is first needed."""

    def __init__(
        self,
        model: nn.Module,
        batches: list[Batch],
        criterion: Criterion,
        optimizer: OptimizerFactory,
        device: torch.device,
        way: Way,
    ) -> None:
        self._source, self._factory = model, optimizer
        self._batches, self._criterion, self._device = batches, criterion, device
        self._dtype, self._tf32 = way
        self._taken = 0
        self.skipped = 0
        self._model: nn.Module | None = None

    def _build(self) -> None:
        try:
            copied = copy.deepcopy(self._source)
        except (RuntimeError, TypeError) as error:
            raise BitdialError(
                f"model must be one that copy.deepcopy can copy, got: {' '.join(str(error).split())}"
            ) from error
        self._model = copied.to(self._device).train()
        if self._dtype == FLOAT8:
            convert_to_float8(self._model)
        self._optimizer = self._factory(self._model.parameters())
        if not isinstance(self._optimizer, Optimizer):
            got = type(self._optimizer).__name__
            raise BitdialError(f"optimizer must make an optimizer of parameters, got a function that made a {got}")
        scaling = self._dtype == torch.float16
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=scaling)

    def measure_memory(self) -> int:
        """Return the bytes of one step, after some to warm up; nothing of it stays behind on a GPU."""
        if self._device.type != "cuda":
            self._build()
            assert self._model is not None
            for _ in range(WARM_UP - 1):
                self.step()
            with kept_bytes(self._model) as kept:
                self.step()
            return kept.total
        before = torch.cuda.memory_allocated(self._device)
        self._build()
        for _ in range(WARM_UP):
            self.step()
        peak = peak_on_gpu(self._device, before, self.step)
        self._model = None  # the next way is to be measured alone
        del self._optimizer, self._scaler
        return peak

    def step(self) -> float:
        """Train on the next batch; return the seconds, with nothing left in the device's queue."""
        if self._model is None:
            self._build()
        assert self._model is not None
        inputs, targets = self._batches[self._taken % len(self._batches)]
        self._taken += 1
        before = self._scaler.get_scale()
        with _tf32(self._tf32):
            _synchronise(self._device)
            began = time.perf_counter()
            self._optimizer.zero_grad()
            with mixed_precision_context(dtype=autocast_dtype(self._dtype), device=self._device):
                loss = self._criterion(self._model(inputs), targets)
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self._scaler.step(self._optimizer)
            self._scaler.update()
            _synchronise(self._device)
            seconds = time.perf_counter() - began
        self.skipped += self._scaler.get_scale() < before
        return seconds


def take_turns(arms: list[Arm], rounds: int, on_round: Callable[[int], None] | None) -> list[list[float]]:
    """Return the seconds of every round for each way; who goes first rotates."""
    seconds: list[list[float]] = [[] for _ in arms]
    for arm in arms:
        for _ in range(WARM_UP):
            arm.step()
        arm.skipped = 0
    for done in range(rounds):
        for turn in range(len(arms)):
            index = (done + turn) % len(arms)
            seconds[index].append(arms[index].step())
        if on_round is not None:
            on_round(done + 1)
    return seconds


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def _tf32(on: bool | None) -> Iterator[None]:
    """Switch TF32 for products and convolutions while the body runs; None leaves it as it is."""
    if on is None:
        yield
        return
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "tf32" if on else "ieee"
        yield
    finally:
        for place, former in zip(places, before, strict=True):
            place.fp32_precision = former


class KeptBytes:
    """Counts the bytes that autograd keeps for the backward pass; every storage once, however many tensors share it."""

    def __init__(self, excluded: Iterable[Tensor]) -> None:
        self._excluded = {_place(each) for each in excluded}
        self._sizes: dict[int, int] = {}

    @property
    def total(self) -> int:
        """Bytes so far."""
        return sum(self._sizes.values())

    def add(self, tensor: Tensor) -> Tensor:
        """Take notice of a tensor that is being saved."""
        place = _place(tensor)
        if place not in self._excluded:
            self._sizes[place] = max(self._sizes.get(place, 0), _bytes(tensor))
        return tensor


@contextmanager
def kept_bytes(model: nn.Module) -> Iterator[KeptBytes]:
    """Count what autograd saves while the body runs forward, parameters and buffers of `model` left out.

    Copies of parameters in a narrower format do count: they take memory until the backward pass is over. What a custom
    function keeps as plain attributes is not seen.
    """
    counted = KeptBytes([*model.parameters(), *model.buffers()])
    with torch.autograd.graph.saved_tensors_hooks(counted.add, lambda tensor: tensor):
        yield counted


def _place(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse and other layouts have no storage of their own
        return -id(tensor)


def _bytes(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().nbytes()
    except (RuntimeError, NotImplementedError):
        return tensor.numel() * tensor.element_size()


def peak_on_gpu(device: torch.device, before: int, step: Callable[[], object]) -> int:
    """Return the highest number of bytes allocated during a step, less those that were allocated `before`."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
