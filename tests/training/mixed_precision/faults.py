"""Layers, losses and optimizers that go wrong on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class NotFiniteIn(nn.Module):
    """Passes its input on; as NaN where that has one of some dtypes, as long as it is switched on."""

    def __init__(self, *dtypes: torch.dtype) -> None:
        super().__init__()
        self.dtypes = dtypes
        self.on = True

    def forward(self, x: Tensor) -> Tensor:
        return x * float("nan") if self.on and x.dtype in self.dtypes else x


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * float("nan")


class BadGradient(nn.Module):
    """Passes its input on, and NaN back."""

    def forward(self, x: Tensor) -> Tensor:
        return _BadGradient.apply(x)


class Fault:
    """Raises an error at chosen calls, counted from 1."""

    def __init__(self, calls: Iterable[int], error: Callable[[], BaseException] | None = None) -> None:
        self.at = set(calls)
        self.calls = 0
        self.error = error or (lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))

    def __call__(self, *_: Any) -> None:
        self.calls += 1
        if self.calls in self.at:
            raise self.error()


class FaultyForward(nn.Module):
    """Passes its input on, unless its fault is due."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        self.fault()
        return x


class _FaultyBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, fault: Fault) -> Tensor:
        ctx.fault = fault
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.fault()
        return gradient, None


class FaultyBackward(FaultyForward):
    """Passes its input on, and fails on the way back when its fault is due."""

    def forward(self, x: Tensor) -> Tensor:
        return _FaultyBackward.apply(x, self.fault)


class Scaled:
    """Cross-entropy, times a factor at chosen calls (or at all)."""

    def __init__(self, factor: float, at: Iterable[int] | None = None) -> None:
        self.factor, self.at, self.calls = factor, None if at is None else set(at), 0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        loss = nn.functional.cross_entropy(output, target)
        return loss * self.factor if self.at is None or self.calls in self.at else loss
