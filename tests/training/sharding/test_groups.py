"""Which weights are gathered together: only modules that are called, and shared weights with all who share them."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from bitdial.models import build_model
from bitdial.training.sharding import sharded_model
from tests.training.sharding.cases import network


@pytest.fixture
def smallest(monkeypatch: pytest.MonkeyPatch) -> Any:
    def names_of(model: nn.Module, size: int) -> list[str]:
        monkeypatch.setattr(sharded_model, "SMALLEST_GROUP", size)
        names = {module: name for name, module in model.named_modules()}
        return [names[module] for module in sharded_model.groups_of(model)]

    return names_of


def test_elements_of_sequences_and_lists(smallest: Any) -> None:
    assert smallest(network(), 10**6) == []
    assert smallest(network(), 1000) == ["1.0", "2.0"]
    lists = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]), "head": nn.Linear(8, 2)})
    assert smallest(lists, 60) == ["blocks.0", "blocks.1"]
    assert smallest(lists, 100) == []  # a list is never called


def test_what_is_not_called_is_no_group(smallest: Any) -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2, enable_nested_tensor=False)
    assert smallest(encoder, 100) == ["layers.0", "layers.1"]
    assert smallest(nn.MultiheadAttention(32, 2), 100) == []


def test_shared_weights(smallest: Any) -> None:
    pair: Any = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    tied = nn.Sequential(pair, nn.Linear(8, 8))
    pair[1].weight = pair[0].weight
    assert smallest(tied, 60) == ["0", "1"]
    tied[1].weight = pair[0].weight
    assert smallest(tied, 10) == []


def test_a_network_of_the_zoo_is_cut_into_its_blocks(smallest: Any) -> None:
    model = build_model("resnet18", num_classes=10, in_channels=3, image_size=32)
    found = smallest(model, 10**6)
    assert len(found) >= 3
    assert all(type(model.get_submodule(name)).__name__ == "BasicBlock" for name in found), found
