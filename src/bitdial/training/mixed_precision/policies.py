"""Which layers compute in which format, and from which step on: the rules, before they meet a model."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch

from bitdial.errors import BitdialError
from bitdial.training.mixed_precision.float8 import FORWARD_BFLOAT16
from bitdial.training.mixed_precision.formats import FLOAT8, autocast_dtype, format_name, to_dtype

LayerFormat = torch.dtype | Literal["bfloat16_forward"]
"""What a layer computes in: a dtype, or for float8 layers `FORWARD_BFLOAT16`."""


def to_format(value: Any) -> LayerFormat:
    """Return the format that a name or a dtype stands for.

    Raises:
        BitdialError: there is no such format.
    """
    return FORWARD_BFLOAT16 if value == FORWARD_BFLOAT16 else to_dtype(value)


def needs_float8(format: LayerFormat) -> bool:
    """Whether only float8 layers can follow this format to the letter."""
    return format in (FLOAT8, FORWARD_BFLOAT16)


def plain_dtype(format: LayerFormat) -> torch.dtype:
    """What a layer that is not a float8 layer computes in under a format, and what autocast is set to."""
    return torch.bfloat16 if isinstance(format, str) else autocast_dtype(format)


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
    names = [one if isinstance(one, str) else format_name(one) for one in rule.schedule.formats]
    return names[0] if len(names) == 1 else dict(zip(rule.schedule.steps, names, strict=True))
