"""How large a network is: weights alone, the whole file, and what it takes while it runs, beside other formats."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from bitdial.layers import QuantizedLayer
from bitdial.runtime.program import Program

FORMATS = {"float32": 4, "float16": 2, "int8": 1}
"""Bytes of a weight."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of a network.

    Attributes:
        count: weights of quantized layers.
        other: numbers of everything else (norms, biases, layers that are not quantized).
        weights: the quantized weights as the file holds them, without scales; None where there is no packed file.
        file: the whole file.
        held: weights, scales and tables of the kernels, and what a thread works in (weights as they are multiplied);
            None where they do not compute it.
        activations: what one image takes besides, as the kernels lay it out.
    """

    count: int
    other: int
    weights: int | None
    file: int
    held: int | None
    activations: int | None

    def rows(self) -> list[tuple[str, int | None, list[int]]]:
        """A line each: what, its bytes, and those of the same network in `FORMATS`."""
        alone = [self.count * size for size in FORMATS.values()]
        whole = [self.count * size + self.other * (size if size > 1 else 4) for size in FORMATS.values()]
        memory = [each + (self.activations or 0) for each in whole]
        held = None if self.held is None or self.activations is None else self.held + self.activations
        return [
            ("quantized weights", self.weights, alone),
            ("whole file", self.file, whole),
            ("memory, batch 1", held, memory),
        ]


def counted(model: nn.Module) -> tuple[int, int]:
    """How many weights of a network are quantized, and how many other numbers it has."""
    quantized = sum(each.weight.numel() for each in model.modules() if isinstance(each, QuantizedLayer))
    everything = sum(each.numel() for each in model.parameters())
    return quantized, everything - quantized


def held_by(programs: list[Program]) -> tuple[int, int]:
    """Bytes of what kernels hold with one thread, and of what one image takes."""
    return sum(each.memory + each.scratch for each in programs), sum(each.image for each in programs)
