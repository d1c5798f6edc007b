"""What the kernels compute, as a list of operations on values that have names; to whoever reads one, it is float.

A value is an image of ``(channels, height, width)``, or rows of features, ``(features, 1, rows)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitdial.export.calibration import ActivationGrid
from bitdial.runtime.weights import Weights

Floats: TypeAlias = NDArray[np.float32]


class Shape(NamedTuple):
    """Of the value of one example."""

    channels: int
    height: int
    width: int


class Borders(NamedTuple):
    """Pixels of zeros around an image."""

    top: int
    left: int
    bottom: int
    right: int


NONE = Borders(0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Table:
    """A function as values at equal distances between two ends, with straight lines between and beyond them."""

    low: float
    high: float
    values: Floats
    below: tuple[float, float]
    """Slope and offset left of the table."""
    above: tuple[float, float]


@dataclass(frozen=True)
class Clamp:
    """The activation functions that cut off: ReLU, ReLU6, hardtanh."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Convolve:
    """A quantized convolution or linear layer (whose kernel is 1 x 1)."""

    weights: Weights
    grid: ActivationGrid
    stride: tuple[int, int] = (1, 1)
    borders: Borders = NONE
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True, eq=False)
class Multiply:
    """A convolution or linear layer in floating point; weights ``(out, in / groups, rows, columns)``."""

    weights: Floats
    groups: int = 1
    stride: tuple[int, int] = (1, 1)
    borders: Borders = NONE
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Pooling:
    """The largest or the mean value of a window."""

    largest: bool
    window: tuple[int, int]
    stride: tuple[int, int]
    borders: Borders
    dilation: tuple[int, int] = (1, 1)
    divisor: int = 0
    """What a mean is divided by; 0: by how much of the window lies in the image, -1: and in its border."""


@dataclass(frozen=True)
class Same:
    """The value itself, to which an operation's other parts apply."""


@dataclass(frozen=True)
class Concatenate:
    """Channels of several values behind each other."""


@dataclass(frozen=True)
class ByChannel:
    """The pixels of a channel together, as PyTorch flattens an image."""


Kind: TypeAlias = Convolve | Multiply | Pooling | Same | Concatenate | ByChannel


@dataclass(eq=False)
class Operation:
    """``output = act(scale * kind(inputs) + bias + residual)``.

    Attributes:
        scale, bias: float64 of each output channel.
    """

    kind: Kind
    inputs: list[str]
    output: str
    shape: Shape
    input_shape: Shape | None = None
    """Of the first input, where the operation is a convolution."""
    scale: NDArray[np.float64] | None = None
    bias: NDArray[np.float64] | None = None
    residual: str | None = None
    act: Clamp | Table | None = None
    names: list[str] = field(default_factory=list)
    """Of the layers that it stands for."""

    @property
    def reads(self) -> list[str]:
        """The values that it needs."""
        return [*self.inputs, *([self.residual] if self.residual is not None else [])]

    @property
    def takes_codes(self) -> bool:
        """Whether it can write its output on a grid."""
        return not isinstance(self.kind, Concatenate | ByChannel)

    @property
    def takes_more(self) -> bool:
        """Whether a sum or an activation function that comes next can become a part of it."""
        return self.act is None and self.takes_codes
