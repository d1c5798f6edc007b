"""The modules of a model: their names before anything was wrapped around it, and their modes, kept for a while."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from bitdial.errors import BitdialError

_WRAPPERS = {
    "AveragedModel": "module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "DataParallel": "module",
    "DeepSpeedEngine": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "OptimizedModule": "_orig_mod",
    "_FabricModule": "_forward_module",
}
"""Class -> where it keeps what it wraps. By name: two of them live in packages that this room does not import."""

_PASSING_ON = ("DataParallel", "DistributedDataParallel", "OptimizedModule", "_FabricModule")
"""Those whose inner model computes the same without them. (In FullyShardedDataParallel the inner one lacks weights.)"""

_PREFIXES = tuple(f"{_WRAPPERS[kind]}." for kind in ("DistributedDataParallel", "OptimizedModule"))
"""What wrappers leave in front of the names in a state dict; the others take theirs off."""
_COUNT = "n_averaged"
"""What torch's `AveragedModel` has in its state beside the module."""


def check_model(model: object) -> None:
    """Refuse with a `BitdialError` what is no module."""
    if not isinstance(model, nn.Module):
        raise BitdialError(f"model must be a torch.nn.Module, got {type(model).__name__}; pass the model itself")


def plain_names(model: nn.Module, *, every_name: bool = False) -> dict[str, nn.Module]:
    """Every module by its name, without the parts that wrappers add (`torch.compile`, distributed training).

    Only what a wrapper of a known class adds is taken away: a model's own child called ``module`` keeps its name. With
    `every_name`, a module that stands in several places comes once under each of its names, not only the first.
    """
    modules = dict(model.named_modules(remove_duplicate=not every_name))
    plain: dict[str, nn.Module] = {}
    for name, module in modules.items():
        parts = name.split(".") if name else []
        parents = (modules[".".join(parts[:depth])] for depth in range(len(parts)))
        kept = [part for part, parent in zip(parts, parents, strict=True) if part != _inner(parent)]
        plain[".".join(kept)] = module
    return plain


def without_wrappers(state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """A model's state without what wrappers left in front of every name, in any order and number; and what that was.

    Nothing in the names tells a wrapper from a model whose only child is called ``module``: see `named_as`.
    """
    plain, taken = dict(state), ""
    while True:
        names = [name for name in plain if name != _COUNT]
        found = next((each for each in _PREFIXES if names and all(str(name).startswith(each) for name in names)), None)
        if found is None or (_COUNT in plain and found != "module."):
            return plain, taken
        plain, taken = {name.removeprefix(found): plain[name] for name in names}, taken + found


def named_as(model: nn.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """A state with the names that `model` has: of a wrapped model for a plain one, or the other way round."""
    own = model.state_dict().keys()
    if own == state.keys():
        return state
    before = without_wrappers(dict.fromkeys(own))[1]
    plain, taken = without_wrappers(state)
    return state if taken == before else {before + name: value for name, value in plain.items()}


def wrappings(model: nn.Module) -> list[nn.Module]:
    """Return a model, then what DataParallel, DistributedDataParallel, Fabric or torch.compile hold; plain one last."""
    found = [model]
    while (name := _inner(found[-1], _PASSING_ON)) and isinstance(inner := getattr(found[-1], name, None), nn.Module):
        found.append(inner)
    return found


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the plain model inside of all that it is wrapped in."""
    return wrappings(model)[-1]


def hold_of(model: nn.Module) -> Any:
    """Return what makes the context in which the processes do not exchange gradients; `nullcontext` where none do."""
    return next((each.no_sync for each in wrappings(model) if hasattr(each, "no_sync")), nullcontext)


def _inner(parent: nn.Module, known: Collection[str] = _WRAPPERS) -> str | None:
    return next((_WRAPPERS[kind.__name__] for kind in type(parent).__mro__ if kind.__name__ in known), None)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """At the end of a ``with`` block, put every module back into the mode that it was in, training or evaluation.

    One by one: frozen batch norms evaluate in a network that trains, and ``model.train()`` would wake them.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def train_mode(model: nn.Module) -> list[nn.Module]:
    """Put a model into training mode; return the modules that stay in evaluation mode.

    They are those that are in it while the model itself is not: somebody froze them (batch norms, a backbone). A model
    that is in evaluation mode as a whole was merely evaluated before.
    """
    frozen = [module for module in model.modules() if not module.training] if unwrapped(model).training else []
    model.train()  # its own, which may freeze parts by itself
    for module in frozen:
        module.training = False
    return frozen


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Have every module in evaluation mode inside of a ``with`` block, and in its own again after it."""
    with modes_kept(model):
        model.eval()
        yield


def uncompiled() -> AbstractContextManager[Any]:
    """Have nothing compiled inside of a ``with`` block; where no compiler was loaded yet, it is not loaded for that."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
