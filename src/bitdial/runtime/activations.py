"""Activation functions as the kernels take them: cut off at two ends, or a table."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitdial.runtime.operations import Clamp, Table

ENDS = 16.0
"""Tables reach so far to both sides; at 16 the functions have come within 2e-6 of the lines that they approach."""

CELLS = 8192
"""Of 1/256 each: hardswish and its like have their kinks between cells, and a straight line is within 2e-6 of GELU."""

_Lines = tuple[tuple[float, float], tuple[float, float]]
_RISES: _Lines = ((0.0, 0.0), (1.0, 0.0))
_STEP: _Lines = ((0.0, 0.0), (0.0, 1.0))
_TURNS: _Lines = ((0.0, -1.0), (0.0, 1.0))

FUNCTIONS: dict[Any, tuple[Callable[[Tensor], Tensor], _Lines]] = {
    nn.SiLU: (functional.silu, _RISES),
    nn.Mish: (functional.mish, _RISES),
    nn.Hardswish: (functional.hardswish, _RISES),
    nn.Hardsigmoid: (functional.hardsigmoid, _STEP),
    nn.Sigmoid: (torch.sigmoid, _STEP),
    nn.Tanh: (torch.tanh, _TURNS),
    functional.silu: (functional.silu, _RISES),
    functional.mish: (functional.mish, _RISES),
    functional.hardswish: (functional.hardswish, _RISES),
    functional.hardsigmoid: (functional.hardsigmoid, _STEP),
    torch.sigmoid: (torch.sigmoid, _STEP),
    torch.tanh: (torch.tanh, _TURNS),
    "sigmoid": (torch.sigmoid, _STEP),
    "tanh": (torch.tanh, _TURNS),
}
"""What has no arguments: a module, a function or a method -> the function, and the lines that it approaches."""

_RELU = (functional.relu, torch.relu, torch.relu_, "relu", "relu_")

IN_PLACE = frozenset({operator.iadd, operator.imul, operator.isub, torch.relu_})
"""Functions that change their first argument; methods that do have a name that ends with an underscore."""


@functools.cache
def _table(function: Callable[[Tensor], Tensor], lines: _Lines) -> Table:
    x = torch.linspace(-ENDS, ENDS, CELLS + 1, dtype=torch.float64, device="cpu")
    return Table(-ENDS, ENDS, function(x).numpy().astype(np.float32), *lines)


def _gelu(approximate: str) -> Table:
    return _table(_gelu_of(approximate), _RISES)


@functools.cache
def _gelu_of(approximate: str) -> Callable[[Tensor], Tensor]:
    return functools.partial(functional.gelu, approximate=approximate)


def activation_of(target: Any, arguments: dict[str, Any]) -> Clamp | Table | None:
    """An activation function; None where it is none that is known.

    Args:
        target: a module, a function, or the name of a method.
        arguments: what a function or a method is called with behind its input, by name or by place ("1", "2").
    """
    known = FUNCTIONS.get(type(target) if isinstance(target, nn.Module) else target)
    rest = {name: value for name, value in arguments.items() if name != "inplace"}
    if known is not None and not rest:
        return _table(*known)
    if isinstance(target, nn.Module):
        return _of_module(target)
    if target in _RELU and not set(rest) - {"1"}:
        return Clamp(0.0, float("inf"))
    if target is functional.relu6:
        return Clamp(0.0, 6.0)
    if target is functional.gelu and not set(rest) - {"approximate"}:
        return _gelu(rest.get("approximate", "none"))
    if target in (functional.hardtanh, torch.clamp, "clamp"):
        return _clamp(target, rest)
    return None


def _clamp(target: Any, rest: dict[str, Any]) -> Clamp | None:
    names = ("min_val", "max_val") if target is functional.hardtanh else ("min", "max")
    default = (-1.0, 1.0) if target is functional.hardtanh else (-float("inf"), float("inf"))
    ends = [rest.get(name, rest.get(str(place + 1))) for place, name in enumerate(names)]
    ends = [other if end is None else end for end, other in zip(ends, default, strict=True)]
    low, high = ends
    return Clamp(float(low), float(high)) if isinstance(low, int | float) and isinstance(high, int | float) else None


def _of_module(module: nn.Module) -> Clamp | Table | None:
    kind = type(module)
    if kind is nn.ReLU:
        return Clamp(0.0, float("inf"))
    if kind in (nn.ReLU6, nn.Hardtanh):
        assert isinstance(module, nn.Hardtanh)
        return Clamp(float(module.min_val), float(module.max_val))
    if isinstance(module, nn.GELU):
        return _gelu(module.approximate)
    if kind is nn.LeakyReLU:
        return _table(_leaky(module.negative_slope), ((module.negative_slope, 0.0), (1.0, 0.0)))
    return None


@functools.cache
def _leaky(slope: float) -> Callable[[Tensor], Tensor]:
    return functools.partial(functional.leaky_relu, negative_slope=slope)
