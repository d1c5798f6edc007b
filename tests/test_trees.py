"""Trees of tensors: whatever a batch or a state is made of comes out in the same form."""

from __future__ import annotations

import copy
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from bitdial.trees import map_tensors, tensors

ONE, TWO = torch.tensor([1.0]), torch.tensor([2.0])


class Pair(NamedTuple):
    x: Any
    y: Any


@dataclass
class Record:
    x: Any
    y: Any = None
    total: Any = field(init=False, default=None)


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Any


class Sequence(list[Any]):
    """A list of a class of its own."""


class Named(Mapping[str, Any]):
    """A mapping that is no dictionary and cannot be written into."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


TREES: dict[str, Any] = {
    "tensor": ONE,
    "tuple": (ONE, [TWO, "text"]),
    "list of a class": Sequence([ONE, None]),
    "named tuple": Pair(ONE, {"deep": (TWO,)}),
    "dictionary": {"x": ONE, 3: [TWO]},
    "ordered": OrderedDict(x=ONE, y=TWO),
    "default": defaultdict(list, x=ONE),
    "user's": UserDict(x=ONE),
    "dataclass": Record(ONE, (TWO,)),
    "frozen dataclass": [Frozen((ONE,))],
    "what torch returns": torch.max(torch.eye(2), dim=0),
}


def plain(tree: Any) -> Any:
    """A tree without tensors, to be compared."""
    return map_tensors(Tensor.tolist, tree)


@pytest.mark.parametrize("name", TREES)
def test_the_form_stays_and_the_given_tree_too(name: str) -> None:
    tree = TREES[name]
    before = [each.clone() for each in tensors(tree)]
    doubled = map_tensors(lambda each: each * 2, tree)
    assert type(doubled) is type(tree)
    assert plain(doubled) == plain(map_tensors(lambda each: each + each, tree))
    assert [each.tolist() for each in tensors(doubled)] == [(each * 2).tolist() for each in before]
    assert [each.tolist() for each in tensors(tree)] == [each.tolist() for each in before]


def test_tensors_come_in_order() -> None:
    tree = {"b": (ONE, Pair(TWO, None)), "a": Record(ONE, [TWO])}
    assert [each is which for each, which in zip(tensors(tree), (ONE, TWO, ONE, TWO), strict=True)] == [True] * 4
    assert [*tensors([1, "text", None, {1, 2}, Record])] == []


def test_containers_are_new_and_leaves_are_not() -> None:
    leaf, record = object(), Record("no tensor")
    tree = {"list": [leaf, record, ONE]}
    same = map_tensors(lambda each: each, tree)
    assert same is not tree
    assert same["list"] is not tree["list"]
    assert all(one is other for one, other in zip(same["list"], tree["list"], strict=True))


def test_attributes_of_a_dictionary_stay() -> None:
    state = OrderedDict(x=ONE)
    state._metadata = {"version": 2}  # type: ignore[attr-defined]
    assert map_tensors(torch.clone, state)._metadata == {"version": 2}


def test_a_mapping_that_cannot_be_written_becomes_a_dictionary() -> None:
    moved = map_tensors(torch.neg, Named(x=ONE, y="text"))
    assert moved == {"x": -ONE, "y": "text"}
    assert type(moved) is dict


def test_a_dataclass_keeps_what_its_init_does_not_take() -> None:
    record = Record(ONE)
    record.total = TWO
    changed = map_tensors(torch.neg, record)
    assert (changed.x.item(), changed.total.item(), record.x.item()) == (-1.0, -2.0, 1.0)
    assert map_tensors(torch.neg, Frozen(copy.copy(TWO))).x.item() == -2.0
