"""Measure what mixed precision gains for a network: time and memory of training steps, side by side in one run."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.training.mixed_precision.benchmark_result import MixedPrecisionBenchmark, Row, quartiles
from bitdial.training.mixed_precision.context import mixed_precision_context
from bitdial.training.mixed_precision.facts import count_parameters, device_of, narrow_format
from bitdial.training.mixed_precision.float8 import convert_to_float8
from bitdial.training.mixed_precision.formats import FLOAT8, autocast_dtype, check_device, format_name, to_dtype
from bitdial.training.mixed_precision.kept_memory import ALLOCATED, KEPT, kept_bytes, peak_on_gpu
from bitdial.training.mixed_precision.memory import is_out_of_memory
from bitdial.training.seeding import preserved_random_state

WARM_UP = 3
"""Steps of each way before the clock runs: kernels are chosen, caches filled, the loss scale settles."""

BATCHES = 8
"""At most so many batches are taken from an iterable, and used in turn."""

Batch = tuple[Tensor, Tensor]
Criterion = Callable[[Any, Any], Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def benchmark_mixed_precision(
    model: nn.Module,
    data: Batch | Iterable[Batch],
    num_iterations: int = 100,
    *,
    dtype: torch.dtype | str | None = None,
    criterion: Criterion | None = None,
    optimizer: OptimizerFactory | None = None,
    device: torch.device | str | None = None,
    on_round: Callable[[int], None] | None = None,
) -> MixedPrecisionBenchmark:
    """Measure training steps in float32 and in a narrow format, interleaved; the model itself is not touched.

    A step is forward pass, loss, backward pass and optimizer, with a loss scale in float16. Copies of the model train
    on the device, in training mode; random state and the batches are left as they are. Memory is measured for one way
    at a time: on a GPU the peak of what is allocated, weights and optimizer state included; elsewhere the bytes that
    autograd keeps for the backward pass, parameters not included.

    Args:
        model: what trains; ``model(inputs)`` gives its output.
        data: a pair (inputs, targets) of tensors, or an iterable of such, of which the first 8 are used in turn.
        num_iterations: timed rounds.
        dtype: the narrow format or its name; by default the one that the device is better at. float8 is for the linear
            layers that `convert_to_float8` takes, bfloat16 for the rest.
        criterion: ``(output, targets) -> loss``. By default cross-entropy where targets are whole numbers, else the
            mean squared error.
        optimizer: makes an optimizer of parameters; by default SGD with a learning rate of .001 and momentum.
        device: where to measure; by default where the model is.
        on_round: called after each round with the rounds that are done.

    Raises:
        BitdialError: data that is no pair or empty, a network that cannot train on it, memory that runs out, a format
            that the device lacks; float8 for a network without a layer that can compute in it.
    """
    count_parameters(model)
    if isinstance(num_iterations, bool) or not isinstance(num_iterations, int) or num_iterations < 1:
        raise BitdialError(f"num_iterations must be a whole number from 1 up, got {num_iterations!r}")
    where = device_of(model, device)
    if any(each.is_meta for each in model.parameters()):
        raise BitdialError("model must have values to train, got one on the meta device; build it on cpu or cuda")
    narrow = _checked_format(narrow_format(where) if dtype is None else dtype, where)
    with preserved_random_state():
        batches = [_to_device(batch, where) for batch in _batches(data)]
        loss = criterion or _default_criterion(batches[0][1])
        arms = {name: _Arm(model, batches, loss, optimizer or _sgd, where, way) for name, way in _ways(narrow, where)}
        with _one_sentence(batches[0][0]):
            memory = {name: arm.measure_memory() for name, arm in arms.items()}
            seconds = _take_turns(list(arms.values()), num_iterations, on_round)
    measured = dict(zip(arms, seconds, strict=True))
    rows = []
    for name, times in measured.items():
        low, middle, high = quartiles(times)
        rows.append(Row(name, middle, (low, high), memory[name], arms[name].skipped))
    plain, other = seconds[0], seconds[1]
    low, middle, high = quartiles([one / two for one, two in zip(plain, other, strict=True)])
    return MixedPrecisionBenchmark(
        dtype=format_name(narrow),
        device=str(where),
        iterations=num_iterations,
        batch_size=len(batches[0][0]),
        rows=tuple(rows),
        speedup=middle,
        speedup_quartiles=(low, high),
        memory_kind=ALLOCATED if where.type == "cuda" else KEPT,
    )


Way = tuple[torch.dtype, bool | None]
"""The format, and whether TF32 is on; None leaves that as it is."""


def _ways(narrow: torch.dtype, device: torch.device) -> list[tuple[str, Way]]:
    ways: list[tuple[str, Way]] = [("float32", (torch.float32, None)), (format_name(narrow), (narrow, None))]
    if device.type == "cuda":
        ways += [("float32, TF32 off", (torch.float32, False)), ("float32, TF32 on", (torch.float32, True))]
    return ways


class _Arm:
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
            raise BitdialError(f"model must be one that copy.deepcopy can copy, got: {error}") from error
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
            self.step()  # the first step of a new copy allocates
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


def _take_turns(arms: list[_Arm], rounds: int, on_round: Callable[[int], None] | None) -> list[list[float]]:
    """Return the seconds of every round for each way; who goes first rotates."""
    seconds: list[list[float]] = [[] for _ in arms]
    for arm in arms:
        arm.step()
        arm.skipped = 0
    for done in range(rounds):
        for turn in range(len(arms)):
            index = (done + turn) % len(arms)
            seconds[index].append(arms[index].step())
        if on_round is not None:
            on_round(done + 1)
    return seconds


def _checked_format(dtype: Any, device: torch.device) -> torch.dtype:
    narrow = to_dtype(dtype)
    if narrow == torch.float32:
        raise BitdialError("dtype must be a format to compare with float32, got float32 itself; use bfloat16")
    check_device(narrow, device)
    return narrow


def _batches(data: Any) -> list[Batch]:
    expected = "data must be a pair (inputs, targets) of tensors or an iterable of such pairs"
    if _is_pair(data):
        return [tuple(data)]
    if isinstance(data, Tensor | str | dict) or not isinstance(data, Iterable):
        raise BitdialError(f"{expected}, got {type(data).__name__}; pass for instance (x, y)")
    batches = list(islice(data, BATCHES))
    if not batches:
        raise BitdialError(f"{expected}, got one that gives nothing; pass at least one batch")
    for batch in batches:
        if not _is_pair(batch):
            raise BitdialError(f"{expected}, got a {type(batch).__name__} in it; let it give (x, y)")
    return [(batch[0], batch[1]) for batch in batches]


def _is_pair(data: Any) -> bool:
    pair = isinstance(data, tuple | list) and len(data) == 2
    return pair and all(isinstance(part, Tensor) and part.dim() > 0 and len(part) > 0 for part in data)


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return batch[0].to(device), batch[1].to(device)


def _default_criterion(targets: Tensor) -> Criterion:
    return functional.mse_loss if targets.is_floating_point() else functional.cross_entropy


def _sgd(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


@contextmanager
def _one_sentence(inputs: Tensor) -> Iterator[None]:
    """Turn what torch says about a network and its data into a sentence that says which."""
    try:
        yield
    except BitdialError:
        raise
    except (RuntimeError, MemoryError, ValueError, TypeError, IndexError, AttributeError) as error:
        if is_out_of_memory(error):
            raise BitdialError(
                f"memory ran out with a batch of {len(inputs)}, expected room for a copy of the model in each format; "
                "lower the batch size"
            ) from error
        shape = list(inputs.shape)
        raise BitdialError(f"the network cannot train on inputs of shape {shape}: {error}") from error


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
