"""Which layers compute in which format, and from which step on: the rules, and what of a model they mean."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from bitdial.errors import BitdialError
from bitdial.layers.convert import FIRST, LAST, find_layers
from bitdial.training.step.formats import LayerFormat, format_name, to_format


@dataclass(frozen=True)
class Stages:
    """A format that changes at given steps: ``formats[i]`` from ``steps[i]`` on. ``steps[0]`` is 0."""

    steps: tuple[int, ...]
    formats: tuple[LayerFormat, ...]

    def __call__(self, step: int) -> LayerFormat:
        """The format at a step."""
        return self.formats[bisect_right(self.steps, step) - 1]


@dataclass(frozen=True)
class PolicyRule:
    """One rule: the layers that a pattern means, and their format at every step (a pure function)."""

    pattern: str
    schedule: Stages | Callable[[int], Any]

    def format_at(self, step: int) -> LayerFormat:
        """The format at a step.

        Raises:
            BitdialError: a schedule of the user's own gave something that is no format.
        """
        return _format(self.schedule(step), f"policy {self.pattern!r} at step {step}")


@dataclass(frozen=True)
class PrecisionPolicies:
    """Rules in order; where several mean one layer, the last of them holds. Made by `parse_policies`."""

    rules: tuple[PolicyRule, ...]

    def at(self, step: int) -> tuple[LayerFormat, ...]:
        """Each rule's format at a step.

        Raises:
            BitdialError: the step is not a whole number of 0 or more.
        """
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise BitdialError(f"step must be a whole number of 0 or more, got {step!r}")
        return tuple(rule.format_at(step) for rule in self.rules)

    def to_plain(self) -> list[list[Any]]:
        """The rules as lists, numbers and texts; `parse_policies` reads them back.

        A list, as the order counts and a YAML writer may sort a map.

        Raises:
            BitdialError: a rule's schedule is a function.
        """
        return [[rule.pattern, _plain(rule)] for rule in self.rules]


def parse_policies(spec: Any) -> PrecisionPolicies:
    """Read policies from any of their forms.

    Args:
        spec: a map pattern -> format, or a list of pairs (pattern, format). A pattern is a layer's name or a shell
            pattern (``"*.attention*"``), and means everything inside the module that it names; ``"<first>"`` and
            ``"<last>"`` are the first and the last layer with a weight matrix. A format is ``"float32"``,
            ``"bfloat16"``, ``"float16"``, ``"float8"`` or a `torch.dtype`; for float8 layers also
            ``"bfloat16_forward"``. In place of a format may stand a map step -> format, steps ascending from 0, each
            format holding until the next; or a pure function of the step.

    Raises:
        BitdialError: something else, with the rule that it stands in.
    """
    if isinstance(spec, PrecisionPolicies):
        return spec
    if isinstance(spec, Mapping):
        pairs = list(spec.items())
    elif isinstance(spec, Sequence) and not isinstance(spec, str | bytes):
        pairs = [_pair(entry, index) for index, entry in enumerate(spec)]
    else:
        raise BitdialError(
            "policies must be a map such as {'head': 'float32'} or a list of pairs (pattern, dtype), "
            f"got {type(spec).__name__} {spec!r}"
        )
    if not pairs:
        raise BitdialError("policies must have at least one rule, got none; leave policies out to have none")
    rules = tuple(PolicyRule(_pattern(pattern), _schedule(value, pattern)) for pattern, value in pairs)
    for rule in rules:
        rule.format_at(0)
    return PrecisionPolicies(rules)


def _pair(entry: Any, index: int) -> tuple[Any, Any]:
    if isinstance(entry, str) or not isinstance(entry, Sequence) or len(entry) != 2:
        raise BitdialError(f"policy {index} of the list must be a pair (pattern, dtype), got {entry!r}")
    return entry[0], entry[1]


def _pattern(pattern: Any) -> str:
    if not isinstance(pattern, str) or not pattern:
        raise BitdialError(f'a policy\'s pattern must be a text such as "head" or "*.attention*", got {pattern!r}')
    return pattern


def _schedule(value: Any, pattern: str) -> Stages | Callable[[int], Any]:
    if isinstance(value, Mapping):
        steps = tuple(_step(key, pattern) for key in value)
        if not steps or steps[0] != 0 or any(a >= b for a, b in pairwise(steps)):
            got = ", ".join(map(str, steps)) or "none"
            raise BitdialError(f"policy {pattern!r} must have steps that ascend from 0, got {got}")
        return Stages(steps, tuple(_format(one, f"policy {pattern!r} at step {key}") for key, one in value.items()))
    if callable(value):
        return value  # type: ignore[no-any-return]
    return Stages((0,), (_format(value, f"policy {pattern!r}"),))


def _step(key: Any, pattern: str) -> int:
    if isinstance(key, str) and key.isascii() and key.isdigit():
        return int(key)
    if isinstance(key, bool) or not isinstance(key, int) or key < 0:
        raise BitdialError(
            f"policy {pattern!r} must map steps, whole numbers of 0 or more, to dtypes, got step {key!r}"
        )
    return key


def _format(value: Any, where: str) -> LayerFormat:
    try:
        return to_format(value)
    except BitdialError as error:
        raise BitdialError(f"{where}: {error}") from None


def _plain(rule: PolicyRule) -> str | dict[int, str]:
    if not isinstance(rule.schedule, Stages):
        raise BitdialError(
            f"policy {rule.pattern!r} must be a dtype or a map step -> dtype to be written to a file, got a function"
        )
    names = [format_name(one) for one in rule.schedule.formats]
    return names[0] if len(names) == 1 else dict(zip(rule.schedule.steps, names, strict=True))


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
