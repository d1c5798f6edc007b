"""What a benchmark of mixed precision found, as an object and as a mapping, with a verdict in words."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bitdial.training.mixed_precision.formats import best_format, format_name, good_at_bfloat16, good_at_float16

CLEAR = 0.03
"""A difference below this share is called none: other work on a machine moves medians by as much."""


@dataclass(frozen=True)
class Row:
    """One way to compute.

    Attributes:
        name: as "float32", "bfloat16", "float32, TF32 on".
        seconds: median time of a step.
        quartiles: lower and upper quartile of it.
        memory_bytes: as the benchmark's `memory_kind` says.
        skipped_steps: steps that the loss scaler skipped; they lack the optimizer's part.
    """

    name: str
    seconds: float
    quartiles: tuple[float, float]
    memory_bytes: int
    skipped_steps: int = 0


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
        verdict: whether it pays, in words.
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
        as_fast = self.speedup_quartiles[1] >= 1 - CLEAR and self.speedup > 0.9
        return self._is_faster or (as_fast and self.memory_savings_percent > 10)

    @property
    def _is_faster(self) -> bool:
        return self.speedup_quartiles[0] > 1 + CLEAR

    @property
    def verdict(self) -> str:
        """Whether it pays, in words."""
        sentences = [self._on_time(), self._on_memory()]
        if not self.pays:
            sentences.append(f"It does not pay here: stay in float32{self._other()}.")
        else:
            sentences.append("It pays here." if self._is_faster else "It pays here in memory, not in time.")
        skipped = self.rows[1].skipped_steps
        if skipped > self.iterations / 10:
            sentences.append(f"{skipped} of {self.iterations} steps overflowed and were skipped, which flatters it.")
        return " ".join(sentences)

    def _on_time(self) -> str:
        low, high = self.speedup_quartiles
        spread = f"{low:.2f}-{high:.2f}"
        if low > 1 + CLEAR:
            return f"Steps in {self.dtype} are {self.speedup:.2f} times as fast as in float32 (quartiles {spread})."
        if high < 1 - CLEAR:
            return (
                f"Steps in {self.dtype} take {1 / self.speedup:.2f} times as long as in float32 "
                f"(quartiles {1 / high:.2f}-{1 / low:.2f}){self._why_slow()}."
            )
        return f"Steps take about as long in {self.dtype} as in float32 (speedup {self.speedup:.2f}, {spread})."

    def _why_slow(self) -> str:
        device = torch.device(self.device)
        good = {"bfloat16": good_at_bfloat16, "float16": good_at_float16}.get(self.dtype)
        return "" if good is None or good(device) else f": this device has no {self.dtype} arithmetic of its own"

    def _on_memory(self) -> str:
        saved = self.memory_savings_percent
        if abs(saved) < 1:
            return f"Memory {self.memory_kind} is the same."
        return f"Memory {self.memory_kind} is {abs(saved):.0f}% {'less' if saved > 0 else 'more'}."

    def _other(self) -> str:
        best = format_name(best_format(self.device))
        return "" if best in ("float32", self.dtype) else f", or try {best}, which is native here"

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
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
