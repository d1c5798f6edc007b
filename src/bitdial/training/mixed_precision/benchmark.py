"""Measure what mixed precision gains for a network: time and memory of training steps, side by side in one run."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.layers.names import train_mode
from bitdial.training.batches import to_device
from bitdial.training.mixed_precision.advice import count_parameters, device_of
from bitdial.training.mixed_precision.criterion import Criterion, loss_of
from bitdial.training.seeding import preserved_random_state
from bitdial.training.step.float8 import convert_to_float8
from bitdial.training.step.formats import (
    FLOAT8,
    autocast_dtype,
    best_format,
    check_device,
    format_name,
    is_native,
    mixed_precision_context,
    narrow_format,
    to_dtype,
)
from bitdial.training.step.memory import is_out_of_memory

CLEAR = 0.03
"""A difference below this share is called none: other work on a machine moves medians by as much."""

BATCHES = 8
"""At most so many batches are taken from an iterable, and used in turn."""

WARM_UP = 3
"""Steps of each way before the clock runs: kernels are chosen, caches filled, the loss scale settles."""

Batch = tuple[Tensor, Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Row:
    """One way to compute."""

    name: str
    """As "float32", "bfloat16", "float32, TF32 on"."""
    seconds: float
    """Median time of a step."""
    quartiles: tuple[float, float]
    memory_bytes: int
    skipped_steps: int = 0
    """Those that the loss scaler skipped; they lack the optimizer's part."""


@dataclass(frozen=True, eq=False)
class MixedPrecisionBenchmark(Mapping[str, Any]):
    """Training steps in float32 and in a narrow format, side by side; ``result["speedup"]`` is ``result.speedup``.

    Attributes:
        dtype: name of the narrow format.
        device: where, as "cpu" or "cuda:0".
        iterations: timed rounds; in each, every way took one step.
        batch_size: examples in a step.
        rows: float32 first, the narrow format second; on CUDA then float32 with TF32 off and on.
        speedup: median over the rounds of float32's time over the narrow format's: 2 is twice as fast.
        speedup_quartiles: lower and upper quartile of it.
        memory_kind: what is counted as memory: "peak allocated on the GPU" or "kept for the backward pass".
    """

    dtype: str
    device: str
    iterations: int
    batch_size: int
    rows: tuple[Row, ...]
    speedup: float
    speedup_quartiles: tuple[float, float]
    memory_kind: str

    @property
    def speed_improvement_percent(self) -> float:
        """By how many per cent more steps fit into the same time; negative where it is slower."""
        return 100 * (self.speedup - 1)

    @property
    def memory_savings_percent(self) -> float:
        """By how many per cent less memory it takes; negative where it takes more."""
        plain, narrow = self.rows[0].memory_bytes, self.rows[1].memory_bytes
        return 100 * (1 - narrow / plain) if plain else 0.0

    @property
    def pays(self) -> bool:
        """Whether steps are clearly faster, or take about as long with clearly less memory."""
        low, high = self.speedup_quartiles
        as_fast = high >= 1 - CLEAR and self.speedup > 0.9
        return low > 1 + CLEAR or (as_fast and self.memory_savings_percent > 10)

    @property
    def verdict(self) -> str:
        """Whether it pays, in words."""
        (low, high), dtype, saved = self.speedup_quartiles, self.dtype, self.memory_savings_percent
        spread = f"{low:.2f}-{high:.2f}"
        if low > 1 + CLEAR:
            time = f"Steps in {dtype} are {self.speedup:.2f} times as fast as in float32 (quartiles {spread})."
        elif high < 1 - CLEAR:
            native = is_native(to_dtype(dtype), self.device)
            why = "" if native else f": this device has no {dtype} arithmetic of its own"
            time = (
                f"Steps in {dtype} take {1 / self.speedup:.2f} times as long as in float32 "
                f"(quartiles {1 / high:.2f}-{1 / low:.2f}){why}."
            )
        else:
            time = f"Steps take about as long in {dtype} as in float32 (speedup {self.speedup:.2f}, {spread})."
        change = "the same" if abs(saved) < 1 else f"{abs(saved):.0f}% {'less' if saved > 0 else 'more'}"
        sentences = [time, f"Memory {self.memory_kind} is {change}."]
        if self.pays:
            sentences.append("It pays here." if low > 1 + CLEAR else "It pays here in memory, not in time.")
        else:
            best = format_name(best_format(self.device))
            other = "" if best in ("float32", dtype) else f", or try {best}, which is native here"
            sentences.append(f"It does not pay here: stay in float32{other}.")
        skipped = self.rows[1].skipped_steps
        if skipped > self.iterations / 10:
            sentences.append(f"{skipped} of {self.iterations} steps overflowed and were skipped, which flatters it.")
        return " ".join(sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, fit for JSON."""
        rows = [vars(row) | {"quartiles": list(row.quartiles)} for row in self.rows]
        return {**self, "rows": rows, "speedup_quartiles": list(self.speedup_quartiles)}

    def __getitem__(self, name: str) -> Any:
        if name not in _NAMES:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


_NAMES = (
    "dtype", "device", "iterations", "batch_size", "rows", "speedup", "speedup_quartiles", "speed_improvement_percent",
    "memory_savings_percent", "memory_kind", "pays", "verdict",
)  # fmt: skip


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile; of one value, that value three times."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return low, middle, high


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
    narrow = narrow_format(where) if dtype is None else to_dtype(dtype)
    if narrow == torch.float32:
        raise BitdialError("dtype must be a format to compare with float32, got float32 itself; use bfloat16")
    check_device(narrow, where)
    with preserved_random_state():
        batches = [to_device(batch, where) for batch in _batches(data)]
        by_value = functional.mse_loss if batches[0][1].is_floating_point() else functional.cross_entropy
        given = (model, batches, criterion or by_value, optimizer or partial(torch.optim.SGD, lr=1e-3, momentum=0.9))
        arms = {name: Arm(*given, where, *way) for name, way in ways(narrow, where).items()}
        try:
            memory = [arm.measure_memory() for arm in arms.values()]
            seconds = take_turns(list(arms.values()), num_iterations, on_round)
        except BitdialError:
            raise
        except (RuntimeError, MemoryError, ValueError, TypeError, IndexError, AttributeError) as error:
            if is_out_of_memory(error):
                raise BitdialError(
                    f"memory ran out with a batch of {len(batches[0][0])}, expected room for a copy of the model in "
                    "each format; lower the batch size"
                ) from error
            shape, said = list(batches[0][0].shape), " ".join(str(error).split())
            raise BitdialError(f"the network cannot train on inputs of shape {shape}: {said}") from error
    rows = []
    for (name, arm), times, kept in zip(arms.items(), seconds, memory, strict=True):
        low, middle, high = quartiles(times)
        rows.append(Row(name, middle, (low, high), kept, arm.skipped))
    low, middle, high = quartiles([plain / other for plain, other in zip(seconds[0], seconds[1], strict=True)])
    return MixedPrecisionBenchmark(
        dtype=format_name(narrow),
        device=str(where),
        iterations=num_iterations,
        batch_size=len(batches[0][0]),
        rows=tuple(rows),
        speedup=middle,
        speedup_quartiles=(low, high),
        memory_kind="peak allocated on the GPU" if where.type == "cuda" else "kept for the backward pass",
    )


def _batches(data: Any) -> list[Batch]:
    expected = "data must be a pair (inputs, targets) of tensors or an iterable of such pairs"
    if _is_pair(data):
        data = [data]
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


def ways(narrow: torch.dtype, device: torch.device) -> dict[str, tuple[torch.dtype, bool | None]]:
    """Return what is compared: name -> the format, and whether TF32 is on; None leaves that as it is."""
    found: dict[str, tuple[torch.dtype, bool | None]] = {
        "float32": (torch.float32, None),
        format_name(narrow): (narrow, None),
    }
    if device.type == "cuda":
        found |= {"float32, TF32 off": (torch.float32, False), "float32, TF32 on": (torch.float32, True)}
    return found


@dataclass(eq=False)
class Arm:
    """A copy of the model that trains in one way; made when it is first needed."""

    source: nn.Module
    batches: list[Batch]
    criterion: Criterion
    factory: OptimizerFactory
    device: torch.device
    dtype: torch.dtype
    tf32: bool | None
    skipped: int = 0
    _taken: int = 0
    _made: tuple[nn.Module, Optimizer, torch.amp.GradScaler] | None = None

    def _make(self) -> tuple[nn.Module, Optimizer, torch.amp.GradScaler]:
        try:
            copied = copy.deepcopy(self.source)
        except (RuntimeError, TypeError) as error:
            raise BitdialError(
                f"model must be one that copy.deepcopy can copy, got: {' '.join(str(error).split())}"
            ) from error
        model = copied.to(self.device)
        train_mode(model)
        if self.dtype == FLOAT8:
            convert_to_float8(model)
        optimizer = self.factory(model.parameters())
        if not isinstance(optimizer, Optimizer):
            got = type(optimizer).__name__
            raise BitdialError(f"optimizer must make an optimizer of parameters, got a function that made a {got}")
        return model, optimizer, torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def measure_memory(self) -> int:
        """Return the bytes of one step, after some to warm up; nothing of it stays behind on a GPU."""
        if self.device.type != "cuda":
            for _ in range(WARM_UP - 1):
                self.step()
            assert self._made is not None
            with kept_bytes(self._made[0]) as kept:
                self.step()
            return sum(kept.values())
        before = torch.cuda.memory_allocated(self.device)
        for _ in range(WARM_UP):
            self.step()
        torch.cuda.reset_peak_memory_stats(self.device)
        self.step()
        peak = torch.cuda.max_memory_allocated(self.device)
        self._made = None  # the next way is to be measured alone
        return peak - before

    def step(self) -> float:
        """Train on the next batch; return the seconds, with nothing left in the device's queue."""
        model, optimizer, scaler = self._made = self._made or self._make()
        inputs, targets = self.batches[self._taken % len(self.batches)]
        self._taken += 1
        before = scaler.get_scale()
        with _tf32(self.tf32):
            _synchronise(self.device)
            began = time.perf_counter()
            optimizer.zero_grad()
            with mixed_precision_context(dtype=autocast_dtype(self.dtype), device=self.device):
                loss = loss_of(self.criterion, model(inputs), targets)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            _synchronise(self.device)
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
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _tf32(on: bool | None) -> Iterator[None]:
    """Switch TF32 for products and convolutions while the body runs; None leaves it as it is."""
    with ExitStack() as after:
        if on is not None:
            for place in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):  # type: ignore[attr-defined]
                after.callback(setattr, place, "fp32_precision", place.fp32_precision)
                place.fp32_precision = "tf32" if on else "ieee"
        yield


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
