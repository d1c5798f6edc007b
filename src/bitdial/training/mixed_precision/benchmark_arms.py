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
        self._made: tuple[nn.Module, Optimizer, torch.amp.GradScaler] | None = None

    def _make(self) -> tuple[nn.Module, Optimizer, torch.amp.GradScaler]:
        try:
            copied = copy.deepcopy(self._source)
        except (RuntimeError, TypeError) as error:
            raise BitdialError(
                f"model must be one that copy.deepcopy can copy, got: {' '.join(str(error).split())}"
            ) from error
        model = copied.to(self._device).train()
        if self._dtype == FLOAT8:
            convert_to_float8(model)
        optimizer = self._factory(model.parameters())
        if not isinstance(optimizer, Optimizer):
            got = type(optimizer).__name__
            raise BitdialError(f"optimizer must make an optimizer of parameters, got a function that made a {got}")
        return model, optimizer, torch.amp.GradScaler(self._device.type, enabled=self._dtype == torch.float16)

    def measure_memory(self) -> int:
        """Return the bytes of one step, after some to warm up; nothing of it stays behind on a GPU."""
        if self._device.type != "cuda":
            for _ in range(WARM_UP - 1):
                self.step()
            assert self._made is not None
            with kept_bytes(self._made[0]) as kept:
                self.step()
            return sum(kept.values())
        before = torch.cuda.memory_allocated(self._device)
        for _ in range(WARM_UP):
            self.step()
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self.step()
        torch.cuda.synchronize(self._device)
        peak = torch.cuda.max_memory_allocated(self._device)
        self._made = None  # the next way is to be measured alone
        return peak - before

    def step(self) -> float:
        """Train on the next batch; return the seconds, with nothing left in the device's queue."""
        model, optimizer, scaler = self._made = self._made or self._make()
        inputs, targets = self._batches[self._taken % len(self._batches)]
        self._taken += 1
        before = scaler.get_scale()
        with _tf32(self._tf32):
            _synchronise(self._device)
            began = time.perf_counter()
            optimizer.zero_grad()
            with mixed_precision_context(dtype=autocast_dtype(self._dtype), device=self._device):
                loss = self._criterion(model(inputs), targets)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            _synchronise(self._device)
            seconds = time.perf_counter() - began
        self.skipped += scaler.get_scale() < before
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


@contextmanager
def kept_bytes(model: nn.Module) -> Iterator[dict[int, int]]:
    """Collect what autograd saves for the backward pass while the body runs forward: place of a storage -> bytes.

    Every storage is there once, however many tensors share it; parameters and buffers of `model` are left out. Copies
    of parameters in a narrower format do count: they take memory until the backward pass is over. What a custom
    function keeps as plain attributes is not seen.
    """
    own = {_storage(each)[0] for each in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        place, size = _storage(tensor)
        if place not in own:
            kept[place] = max(kept.get(place, 0), size)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


def _storage(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor's storage is, and its bytes."""
    try:
        storage = tensor.untyped_storage()
        return storage.data_ptr(), storage.nbytes()
    except (RuntimeError, NotImplementedError):  # sparse and other layouts have no storage of their own
        return -id(tensor), tensor.numel() * tensor.element_size()
