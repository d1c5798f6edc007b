"""Which rule each layer of a model follows, and which layers can follow none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from bitdial.errors import BitdialError
from bitdial.layers.convert import FIRST, LAST, find_layers
from bitdial.training.mixed_precision.formats import format_name
from bitdial.training.mixed_precision.policies import PolicyRule


def govern(modules: dict[str, nn.Module], rules: Sequence[PolicyRule]) -> dict[nn.Module, int]:
    """Return each covered module with the number of its rule: the last one that means any of its names.

    Args:
        modules: every module under each of its names.
        rules: in order.

    Raises:
        BitdialError: a pattern without a layer, or a rule that later ones leave nothing to.
    """
    matrices = [name for name, module in modules.items() if _has_matrix(module)]
    found: dict[nn.Module, int] = {}
    for index, rule in enumerate(rules):
        names = find_layers(matrices if rule.pattern in (FIRST, LAST) else list(modules), rule.pattern)
        # A ModuleList and its like have no forward: nothing to cover but what they hold.
        meant = [modules[name] for name in names if type(modules[name]).forward is not nn.Module.forward]
        if not meant:
            raise BitdialError(
                f"policy pattern must match a layer, got {rule.pattern!r}{_nearest(rule.pattern, modules)}"
            )
        found.update(dict.fromkeys(meant, index))
    for index, rule in enumerate(rules):
        if index not in found.values() and rule.pattern not in [later.pattern for later in rules[index + 1 :]]:
            raise BitdialError(
                f"policy {rule.pattern!r} must have a layer left to it, got none: later rules cover all that it means; "
                "put it after them"
            )
    return {module: found[module] for module in dict.fromkeys(modules.values()) if module in found}


def _has_matrix(module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding | LazyModuleMixin):  # a lazy weight has no dimensions to ask for yet
        return type(module).__name__.startswith(("LazyConv", "LazyLinear"))
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dim() > 1


def _nearest(pattern: str, modules: dict[str, nn.Module]) -> str:
    names = [name for name in modules if name]
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.6)
    if not near or pattern.strip("*?") != pattern:  # a pattern's own words against the last parts of the names
        ends = {name.rpartition(".")[2]: name for name in reversed(names)}
        words = [word for word in re.split(r"[^\w-]+", pattern) if word]
        by_word = [ends[end] for word in words for end in difflib.get_close_matches(word, ends, n=2, cutoff=0.6)]
        near = by_word[:3] or near
    if near:
        return f"; the nearest names are {', '.join(map(repr, near))}"
    parts = [name for name in names if "." not in name]
    more = f" and {len(parts) - 10} more, the last of them {parts[-1]}" if len(parts) > 10 else ""
    return f"; the model's parts are {', '.join(parts[:10]) or '(none)'}{more}"


def check_kind(name: str, module: nn.Module) -> None:
    """Refuse a module whose class cannot be swapped.

    Raises:
        BitdialError: scripted or traced code, a lazy module, a forward of the instance's own.
    """
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
        raise BitdialError(f'layer "{name}" must be a plain module, got traced or scripted code; apply policies before')
    if isinstance(module, LazyModuleMixin):
        raise BitdialError(f'layer "{name}" must have its shape, got {kind}; run a batch through the model first')
    if "forward" in vars(module):
        raise BitdialError(
            f'layer "{name}" must have the forward of its class, got one put onto the instance (some offloading and '
            "tracing tools do that); apply policies before, or name other layers"
        )


def check_attention(modules: dict[str, nn.Module], rule_of: dict[nn.Module, int], rules: Sequence[PolicyRule]) -> None:
    """Refuse a rule for a part of an attention layer, which reads that part's weight and never calls it.

    Raises:
        BitdialError: such a rule, unless the whole layer has the same.
    """
    for name, module in modules.items():
        part = module.out_proj if isinstance(module, nn.MultiheadAttention) else None
        if part in rule_of and (
            module not in rule_of or rules[rule_of[part]].schedule != rules[rule_of[module]].schedule
        ):
            where = f"{name}.out_proj" if name else "out_proj"
            raise BitdialError(
                f'layer "{where}" must follow the policy of its MultiheadAttention, which computes for it, got a rule '
                f"{rules[rule_of[part]].pattern!r} of its own; name {name!r} instead"
            )


def check_parameters(name: str, module: nn.Module, dtype: torch.dtype) -> None:
    """Refuse a format that autocast cannot give a layer with these parameters.

    Raises:
        BitdialError: float64 parameters, which autocast leaves alone, or float16 ones for float32.
    """
    for own in {parameter.dtype for parameter in module.parameters(recurse=False)}:
        if own == torch.float64 or (dtype == torch.float32 and own in (torch.float16, torch.bfloat16)):
            raise BitdialError(
                f'layer "{name}" must have float32 parameters to follow a policy of {format_name(dtype)}, got '
                f"{str(own).removeprefix('torch.')}; keep parameters in float32: policies choose what is computed in"
            )
