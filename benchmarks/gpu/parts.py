"""What is measured on a GPU: the parts in order of value, and what a part is."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where a case is measured.

    Attributes:
        device: "cuda" or "cpu".
        toy: small sizes, for trying the script; such figures say nothing.
        until: when the case is to be over, as ``time.monotonic`` counts.
        scratch: a folder for what is not a result; it may be there in the next call, or not.
        data: the folder of Fashion-MNIST; None: wherever bitdial finds it.
    """

    device: str
    toy: bool
    until: float
    scratch: Path
    data: Path | None

    @property
    def seconds_left(self) -> float:
        """Seconds until the case is to be over."""
        return self.until - time.monotonic()


class NotEnoughTimeError(Exception):
    """What a case raises that sees that it cannot be done in the time it has; it is as if it had not been begun."""


class Module(Protocol):
    """What the module of a part gives. Nothing heavy is imported before `measure` is called."""

    def cases(self, toy: bool) -> Mapping[str, float]:
        """The cases by name, in order of value, each with the seconds after which it is cut off."""

    def measure(self, case: str, bench: Bench) -> list[Row]:
        """Measure a case. An exception makes it a failed one, and what it says is recorded."""

    def table(self, rows: Sequence[Row]) -> list[str]:
        """The rows of all cases as lines of Markdown."""


@dataclass(frozen=True)
class Part:
    """A part of the script.

    Attributes:
        name: in a word; also that of its module.
        title: what it is about.
        claims: what its figures would show: (claim, the cases that show it, by the beginning of their names).
        seconds: its share of eight minutes; what a part leaves over goes to those after it.
        package: where its module is.
    """

    name: str
    title: str
    claims: tuple[tuple[str, str], ...]
    seconds: float
    package: str = "benchmarks.gpu"

    @property
    def module(self) -> Module:
        """The module that measures it."""
        return module(f"{self.package}.{self.name}")


def module(name: str) -> Module:
    """The module of that name, as what a part gives."""
    found: Any = importlib.import_module(name)
    return found  # type: ignore[no-any-return]


PARTS = (
    Part(
        "correctness",
        "The tests' own GPU half",
        (
            (
                "Every quantizer gives on the GPU what it gives on the CPU: forward, backward, at every width",
                "quantizers",
            ),
            ("Sixteen widths, one compiled graph for training and one for evaluation (Inductor on CUDA)", "graphs"),
            ("A run that was stopped on the GPU goes on bit for bit", "resume"),
            (
                "Steps in float16 and bfloat16 are those of a loop around `torch.amp` by hand, bit for bit",
                "mixed precision",
            ),
            ("A batch that does not fit is done again in parts, for real", "out of memory"),
        ),
        90,
    ),
    Part(
        "tax",
        "What fake quantization costs: a training step against float, DoReFa by hand and Brevitas",
        (
            ("Eager steps cost little more than float ones, and less than the peers'", "eager"),
            ("The same compiled: one graph for all widths, near the compiled float step", "compiled"),
            ("The peers compiled", "peers compiled"),
        ),
        100,
    ),
    Part(
        "formats",
        "Mixed precision: time and memory of a training step",
        (
            ("float16 and bfloat16 take less time and memory than float32, with TF32 and without", "float16"),
            ("bfloat16, likewise", "bfloat16"),
            ("float8 for the linear layers of a transformer", "float8"),
        ),
        50,
    ),
    Part(
        "packed",
        "Products on packed weights: kernels in Triton",
        (
            ("Every sum of the kernels is exact, compiled for this GPU", "exact"),
            (
                "Weights of 2 bits take less time than cuBLAS in float16 where memory bounds it: 1 and 16 rows",
                "few rows",
            ),
            ("... and where arithmetic does, int8 on tensor cores: 256 rows and more", "many rows"),
            ("The convolutions of ResNet-18 at batch 256, against cuDNN in float16", "convolutions"),
        ),
        60,
    ),
    Part(
        "augmentation",
        "Batches made on the device against a DataLoader with workers",
        (
            ("No step waits for its data: a ResNet-20 step with data that lives on the GPU", "step"),
            ("The data side alone", "data"),
        ),
        35,
    ),
    Part(
        "ternary",
        "Ternary ResNet-18 against float, Fashion-MNIST, three seeds",
        (
            ("Ternary weights cost little accuracy, after one epoch", "one epoch"),
            ("... and after as many epochs as there was time for", "as many epochs"),
        ),
        95,
    ),
    Part(
        "saving",
        "Checkpoints in the background while training",
        (
            ("A loop that saves in the background takes hardly longer than one that does not save", "ResNet-18"),
            ("The same with a gigabyte of state", "transformer"),
        ),
        25,
    ),
    Part(
        "sharding",
        "Weights in shards (FSDP), on one device",
        (
            (
                "The machinery of shards works on CUDA, gives the same weights, and costs little by itself",
                "ResNet-18",
            ),
            ("The same for a transformer of 100 million parameters", "transformer"),
        ),
        25,
    ),
)
