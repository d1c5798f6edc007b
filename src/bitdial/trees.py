"""Trees of tensors: batches, inputs, outputs and states, which hold tensors in other things, as deep as they like.

What can hold tensors: tuples (named ones too), lists, mappings and dataclasses. Anything else that is no tensor is a
leaf, and left as it is.
"""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list, Mapping)) or _is_record(tree):
        for part in tree if isinstance(tree, (tuple, list)) else _parts(tree).values():
            yield from tensors(part)


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Return a tree of the same form with `function` of each tensor in the tensor's place.

    Tuples, lists and mappings are new ones of the same class, so that nobody writes into what was given; a mapping that
    is neither a dict nor a UserDict becomes a dict. A dataclass is copied only where something in it changes: it may be
    no container at all, but an object of somebody's.
    """
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, (tuple, list)):
        parts = [map_tensors(function, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, Mapping):
        # Attributes stay, such as a state dict's metadata. (Other mappings may share with a copy what they store.)
        filled: Any = copy.copy(tree) if isinstance(tree, (dict, UserDict)) else dict(tree)
        for key, part in tree.items():  # one by one: some kinds forbid update()
            filled[key] = map_tensors(function, part)
        return filled
    if _is_record(tree):
        before = _parts(tree)
        after = {name: map_tensors(function, part) for name, part in before.items()}
        changed = {name: part for name, part in after.items() if part is not before[name]}
        record = copy.copy(tree) if changed else tree
        for name, part in changed.items():
            object.__setattr__(record, name, part)  # frozen ones too
        return record
    return tree


def _is_record(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _parts(tree: Any) -> Mapping[Any, Any]:
    """The parts of a mapping by key, or of a dataclass by field."""
    if isinstance(tree, Mapping):
        return tree
    return {each.name: getattr(tree, each.name) for each in fields(tree) if hasattr(tree, each.name)}
