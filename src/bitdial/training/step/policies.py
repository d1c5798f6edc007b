"""Layers with formats of their own: the rules, which layer follows which, and the handle that turns them."""

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
from bitdial.layers.names import check_model, plain_names
from bitdial.training.step.formats import (
    FORWARD_BFLOAT16,
    LayerFormat,
    autocast_dtype,
    check_device,
    format_name,
    needs_float8,
    to_dtype,
)
from bitdial.training.step.policy_layers import cover, is_covered, is_float8_layer, owner_of, turn, uncover


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

    @property
    def formats(self) -> tuple[LayerFormat, ...]:
        """Every format that the rule can give; of a schedule of the user's own, that of step 0."""
        return self.schedule.formats if isinstance(self.schedule, Stages) else (self.format_at(0),)


@dataclass(frozen=True)
class PrecisionPolicies:
    """Rules in order; where several mean one layer, the last of them holds. Made by `parse_policies`."""

    rules: tuple[PolicyRule, ...]

    def at(self, step: int) -> tuple[LayerFormat, ...]:
        """Each rule's format at a step.

        Raises:
            BitdialError: the step is not a whole number of 0 or more.
        """
        if not _is_step(step):
            raise BitdialError(f"step must be a whole number of 0 or more, got {step!r}")
        return tuple(rule.format_at(step) for rule in self.rules)

    def to_plain(self) -> list[list[Any]]:
        """The rules as lists, numbers and texts; `parse_policies` reads them back.

        A list, as the order counts and a YAML writer may sort a map.

        Raises:
            BitdialError: a rule's schedule is a function.
        """
        plain: list[list[Any]] = []
        for rule in self.rules:
            if not isinstance(rule.schedule, Stages):
                raise BitdialError(
                    f"policy {rule.pattern!r} must be a dtype or a map step -> dtype to be written to a file, got a "
                    "function"
                )
            stages = dict(zip(rule.schedule.steps, map(format_name, rule.schedule.formats), strict=True))
            plain.append([rule.pattern, stages if len(stages) > 1 else stages[0]])
        return plain


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
        spec = list(spec.items())
    elif not isinstance(spec, Sequence) or isinstance(spec, str | bytes):
        raise BitdialError(
            "policies must be a map such as {'head': 'float32'} or a list of pairs (pattern, dtype), "
            f"got {type(spec).__name__} {spec!r}"
        )
    if not spec:
        raise BitdialError("policies must have at least one rule, got none; leave policies out to have none")
    rules = []
    for index, entry in enumerate(spec):
        if isinstance(entry, str) or not isinstance(entry, Sequence) or len(entry) != 2:
            raise BitdialError(f"policy {index} of the list must be a pair (pattern, dtype), got {entry!r}")
        pattern, value = entry
        if not isinstance(pattern, str) or not pattern:
            raise BitdialError(f'a policy\'s pattern must be a text such as "head" or "*.attention*", got {pattern!r}')
        rules.append(PolicyRule(pattern, _schedule(value, pattern)))
    for rule in rules:
        rule.format_at(0)
    return PrecisionPolicies(tuple(rules))


def _schedule(value: Any, pattern: str) -> Stages | Callable[[int], Any]:
    if not isinstance(value, Mapping):
        return value if callable(value) else Stages((0,), (_format(value, f"policy {pattern!r}"),))
    steps = [int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key for key in value]
    for step in steps:
        if not _is_step(step):
            raise BitdialError(
                f"policy {pattern!r} must map steps, whole numbers of 0 or more, to dtypes, got step {step!r}"
            )
    if not steps or steps[0] != 0 or any(a >= b for a, b in pairwise(steps)):
        got = ", ".join(map(str, steps)) or "none"
        raise BitdialError(f"policy {pattern!r} must have steps that ascend from 0, got {got}")
    at = zip(steps, value.values(), strict=True)
    return Stages(tuple(steps), tuple(_format(one, f"policy {pattern!r} at step {step}") for step, one in at))


def _is_step(step: object) -> bool:
    return isinstance(step, int) and not isinstance(step, bool) and step >= 0


def _format(value: Any, where: str) -> LayerFormat:
    try:
        return FORWARD_BFLOAT16 if value == FORWARD_BFLOAT16 else to_dtype(value)
    except BitdialError as error:
        raise BitdialError(f"{where}: {error}") from None


def govern(modules: dict[str, nn.Module], rules: Sequence[PolicyRule]) -> dict[nn.Module, int]:
    """Return each covered module with the number of its rule: the last one that means any of its names in `modules`.

    Raises:
        BitdialError: a pattern without a layer, or a rule that later ones leave nothing to.
    """
    matrices = [name for name, module in modules.items() if _has_matrix(module)]
    found: dict[nn.Module, int] = {}
    for index, rule in enumerate(rules):
        known = matrices if rule.pattern in (FIRST, LAST) else list(modules)
        names = find_layers(known, rule.pattern, modules[""])
        # A ModuleList and its like have no forward: nothing to cover but what they hold.
        meant = [modules[name] for name in names if type(modules[name]).forward is not nn.Module.forward]
        if not meant:
            near = _nearest(rule.pattern, modules)
            raise BitdialError(f"policy pattern must match a layer, got {rule.pattern!r}{near}")
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
    near = difflib.get_close_matches(pattern, names, n=3)  # none below a likeness of .6
    if not near or pattern.strip("*?") != pattern:  # a pattern's own words against the last parts of the names
        ends = {name.rpartition(".")[2]: name for name in reversed(names)}
        words = [word for word in re.split(r"[^\w-]+", pattern) if word]
        by_word = [ends[end] for word in words for end in difflib.get_close_matches(word, ends, n=2)]
        near = by_word[:3] or near
    if near:
        return f"; the nearest names are {', '.join(map(repr, near))}"
    parts = [name for name in names if "." not in name]
    more = f" and {len(parts) - 10} more, the last of them {parts[-1]}" if len(parts) > 10 else ""
    return f"; the model's parts are {', '.join(parts[:10]) or '(none)'}{more}"


def apply_policies(model: nn.Module, policies: Any) -> AppliedPolicies:
    """Have layers of a model compute in the formats that policies give them, from step 0 on.

    A covered layer runs under autocast at its format, whatever autocast is around it: float32 with autocast off and
    floating-point inputs cast to float32; bfloat16 and float16 with autocast on and inputs as they come (weights stay
    as they are, so a float16 policy needs a loss scaler like any float16 run). float8 holds for float8 layers
    (`convert_to_float8`); all else that it covers computes in bfloat16. Outputs flow on in the format they have.

    Names of modules, parameters and the state dict stay the same. A copy of the model keeps the formats of the moment
    when it was copied, and its own handle is had by `remove_policies` and applying anew.

    Args:
        model: any module, bare, compiled or wrapped for distributed training. Quantize it and convert it to float8
            first.
        policies: any form that `parse_policies` reads, or what it returned.

    Raises:
        BitdialError: a pattern that matches nothing, a rule without effect, a layer or a device that cannot follow its
            rule, or a model that has policies already. The model is then unchanged.
    """
    return AppliedPolicies(model, parse_policies(policies))


def remove_policies(model: nn.Module) -> None:
    """Take policies off a model that has no handle: a copy, or one that was unpickled. Without policies: nothing.

    Raises:
        BitdialError: not a module.
    """
    check_model(model)
    for module in model.modules():
        if is_covered(module):
            uncover(module)
        _fused_kernels(module, allowed=True)


class AppliedPolicies:
    """The handle of policies that are in force on a model; made by `apply_policies`. Its `policies` are the rules."""

    def __init__(self, model: nn.Module, policies: PrecisionPolicies) -> None:
        check_model(model)
        modules = plain_names(model, every_name=True)
        if any(is_covered(module) for module in modules.values()):
            raise BitdialError(
                "model must have no policies yet, got one that follows some; remove() them from what apply_policies "
                "returned, or call remove_policies(model) on a copy"
            )
        self.policies = policies
        self._owner: object | None = object()
        self._rule_of = govern(modules, policies.rules)
        self._names = {name: module for name, module in modules.items() if module in self._rule_of}
        self._first_names = {module: name for name, module in plain_names(model).items() if module in self._rule_of}
        for module, name in self._first_names.items():
            _check_kind(name, module)
        _check_attention(modules, self._rule_of, policies.rules)
        for index, rule in enumerate(policies.rules):
            for format in dict.fromkeys(rule.formats):
                self._check(index, format)
        transformers = [module for module in model.modules() if isinstance(module, tuple(_FUSED))]
        self._fused = [module for module in transformers if self._rule_of.keys() & {*module.modules()}]
        for module, name in self._first_names.items():
            try:
                cover(module, self._owner)
            except TypeError as error:
                self.remove()
                kind = type(module).__name__
                raise BitdialError(
                    f'layer "{name}" must be of a class that can be subclassed, got {kind} ({error}); name other layers'
                ) from error
        for module in self._fused:
            _fused_kernels(module, allowed=False)
        self._formats: tuple[Any, ...] = (None,) * len(policies.rules)
        self.set_step(0)

    def __repr__(self) -> str:
        """One line a layer: name and format."""
        rows = (f"  {name or '(model)'}: {format_name(format)}\n" for name, format in self.dtypes().items())
        return "AppliedPolicies(\n" + "".join(rows) + ")"

    def set_step(self, step: int) -> None:
        """Put the formats of a step in force; call it before the step's forward pass. Cheap when nothing changes.

        Nothing needs saving: after a resume, set the step.

        Raises:
            BitdialError: a step below 0; a schedule that gives a format its layers cannot follow; policies that were
                taken off. No format is then changed.
        """
        if self._owner is None:
            raise BitdialError("policies must be in force to set their step, got removed ones; apply them again")
        formats = self.policies.at(step)
        if formats == self._formats:
            return
        changed = [index for index, format in enumerate(formats) if format != self._formats[index]]
        turning = [(module, formats[index]) for module, index in self._rule_of.items() if index in changed]
        for index in changed:
            self._check(index, formats[index])
        if any(owner_of(module) is not self._owner for module, _ in turning):
            raise BitdialError("policies must be in force to set their step, got ones taken off; apply them again")
        for module, format in turning:
            turn(module, format)
        self._formats = formats

    def dtypes(self) -> dict[str, LayerFormat]:
        """What each covered layer computes in now: name -> dtype, or ``"bfloat16_forward"``.

        The model itself is called ``""``. Under a float8 policy a layer that is not a float8 layer reads bfloat16.
        """
        if self._owner is None:
            return {}
        found: dict[str, LayerFormat] = {}
        for name, module in self._names.items():
            format = self._formats[self._rule_of[module]]
            found[name] = format if is_float8_layer(module) else autocast_dtype(format)
        return found

    def remove(self) -> None:
        """Take it all off: every layer is of its own class again and follows what surrounds it. Twice is once."""
        mine = [m for m in self._rule_of if self._owner is not None and owner_of(m) is self._owner]
        self._owner = None
        for module in mine:
            uncover(module)
        for module in self._fused if mine else ():
            _fused_kernels(module, allowed=True)

    def _check(self, index: int, format: LayerFormat) -> None:
        """Refuse a format that a layer under this rule, or its device, cannot compute in."""
        pattern = self.policies.rules[index].pattern
        modules = [module for module, governing in self._rule_of.items() if governing == index]
        if needs_float8(format) and not any(map(is_float8_layer, modules)):
            raise BitdialError(
                f"policy {pattern!r} must cover a float8 layer to give {format_name(format)}, got none; "
                "call convert_to_float8(model) first"
            )
        dtype = autocast_dtype(format)
        for module in modules:
            _check_parameters(self._first_names[module], module, dtype)
        for device in {p.device for m in modules for p in m.parameters(recurse=False) if not p.is_meta}:
            check_device(dtype, device)


_FUSED = {
    nn.TransformerEncoderLayer: ("activation_relu_or_gelu", 0),
    nn.TransformerEncoder: ("use_nested_tensor", False),
}


def _fused_kernels(module: nn.Module, *, allowed: bool) -> None:
    """In evaluation torch's transformer hands bare weights to one fused kernel, past the layers that they belong to."""
    for kind, (name, off) in _FUSED.items():
        if isinstance(module, kind) and not allowed:
            vars(module).setdefault("_bitdial_fused", getattr(module, name))
            setattr(module, name, off)
        elif isinstance(module, kind) and "_bitdial_fused" in vars(module):
            setattr(module, name, vars(module).pop("_bitdial_fused"))


def _check_kind(name: str, module: nn.Module) -> None:
    """Refuse a module whose class cannot be swapped."""
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


def _check_attention(modules: dict[str, nn.Module], rule_of: dict[nn.Module, int], rules: Sequence[PolicyRule]) -> None:
    """Refuse a rule for a part of an attention layer, which reads that part's weight and never calls it."""
    followed = {module: rules[index] for module, index in rule_of.items()}
    for name, module in modules.items():
        own = followed.get(module.out_proj) if isinstance(module, nn.MultiheadAttention) else None
        if own is not None and (module not in followed or own.schedule != followed[module].schedule):
            where = f"{name}.out_proj" if name else "out_proj"
            raise BitdialError(
                f'layer "{where}" must follow the policy of its MultiheadAttention, which computes for it, got a rule '
                f"{own.pattern!r} of its own; name {name!r} instead"
            )


def _check_parameters(name: str, module: nn.Module, dtype: torch.dtype) -> None:
    """Refuse parameters that autocast leaves alone (float64), and narrow ones for float32."""
    for own in {parameter.dtype for parameter in module.parameters(recurse=False)}:
        if own == torch.float64 or (dtype == torch.float32 and own in (torch.float16, torch.bfloat16)):
            raise BitdialError(
                f'layer "{name}" must have float32 parameters to follow a policy of {format_name(dtype)}, got '
                f"{str(own).removeprefix('torch.')}; keep parameters in float32: policies choose what is computed in"
            )
