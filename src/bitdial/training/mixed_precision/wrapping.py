"""What a model is wrapped in: for several devices, by Fabric, by a compiler."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from torch import nn


def wrappings(model: nn.Module) -> list[nn.Module]:
    """Return a model, then what DataParallel, DistributedDataParallel, Fabric or torch.compile hold; plain one last."""
    found = [model]
    while True:
        inner = getattr(found[-1], "_orig_mod", None)
        if inner is None and isinstance(found[-1], nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = found[-1].module
        if inner is None and type(found[-1]).__name__ == "_FabricModule":  # by name: importing lightning takes seconds
            inner = getattr(found[-1], "_forward_module", None)
        if not isinstance(inner, nn.Module):
            return found
        found.append(inner)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the plain model inside of all that it is wrapped in."""
    return wrappings(model)[-1]


def hold_of(model: nn.Module) -> Any:
    """Return what makes the context in which the processes do not exchange gradients; `nullcontext` where none do."""
    return next((each.no_sync for each in wrappings(model) if hasattr(each, "no_sync")), nullcontext)
