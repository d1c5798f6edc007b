"""What a layer is called: its name in the model as it was before anything was wrapped around it."""

from __future__ import annotations

from torch import nn

# By name: two of these classes live in packages that this room does not import.
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


def plain_names(model: nn.Module, *, every_name: bool = False) -> dict[str, nn.Module]:
    """Every module by its name, without the parts that wrappers add (`torch.compile`, distributed training).

    Only what a wrapper of a known class adds is taken away: a model's own child called ``module`` keeps its name.

    Args:
        model: bare or wrapped.
        every_name: a module that stands in several places comes once under each of its names, not only the first.
    """
    modules = dict(model.named_modules(remove_duplicate=not every_name))
    plain: dict[str, nn.Module] = {}
    for name, module in modules.items():
        parts = name.split(".") if name else []
        parents = (modules[".".join(parts[:depth])] for depth in range(len(parts)))
        kept = [part for part, parent in zip(parts, parents, strict=True) if part != _inner(parent)]
        plain[".".join(kept)] = module
    return plain


def _inner(parent: nn.Module) -> str | None:
    return next((_WRAPPERS[kind.__name__] for kind in type(parent).__mro__ if kind.__name__ in _WRAPPERS), None)
