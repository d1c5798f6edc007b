"""Names without what wrappers add, and with what the model itself calls "module"."""

from __future__ import annotations

import torch
from torch import nn

from bitdial.layers.names import plain_names
from tests.layers.nets import Mlp


def test_wrappers_leave_no_trace() -> None:
    expected = set(plain_names(Mlp()))
    assert expected == {"", "0", "1", "2", "3", "4"}
    assert set(plain_names(torch.compile(Mlp(), backend="eager"))) == expected
    assert set(plain_names(nn.DataParallel(Mlp()))) == expected
    assert set(plain_names(nn.DataParallel(torch.compile(Mlp(), backend="eager")))) == expected
    assert set(plain_names(torch.optim.swa_utils.AveragedModel(Mlp()))) >= expected


def test_a_compiled_part_keeps_its_place() -> None:
    model = nn.ModuleDict({"body": torch.compile(Mlp(), backend="eager"), "head": nn.Linear(3, 2)})
    assert "body.2" in plain_names(model)


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = Mlp()
        self.add_module("0", nn.Linear(2, 2))


def test_a_models_own_child_called_module_keeps_its_name() -> None:
    names = plain_names(Holder())
    assert "module.0" in names
    assert names["0"] is not names["module.0"]
    wrapped = plain_names(nn.DataParallel(Holder()))
    assert set(wrapped) == set(names)


def test_every_module_has_one_name() -> None:
    model = nn.DataParallel(Holder())
    # All but the wrapper, which has the name of what it wraps.
    assert len(plain_names(model)) == len(list(model.modules())) - 1


def test_a_module_in_two_places_comes_under_each_name_only_when_asked() -> None:
    model = nn.Module()
    model.a = model.b = nn.Linear(2, 2)
    assert list(plain_names(model)) == ["", "a"]
    every = plain_names(nn.DataParallel(model), every_name=True)
    assert list(every) == ["", "a", "b"]
    assert every["a"] is every["b"]
