"""The examples of docs/cyclic.md run, and what it lists exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from bitdial.configuration import load_config
from bitdial.recipes.cyclic import PRESETS, CyclicConfig
from bitdial.recipes.cyclic.options import Ablation

PAGE = (Path(__file__).parents[3] / "docs" / "cyclic.md").read_text(encoding="utf-8")


def test_examples_run() -> None:
    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(first, names)
    assert [score.bits for score in names["scores"]] == [2, 4, 8]
    assert names["cpt"].iterations == 16
    exec(second, names)
    assert names["scheduler"].iteration == len(names["train"])


@pytest.mark.parametrize("line", re.findall(r"^bitdial train cyclic(.*?)(?:#.*)?$", PAGE, re.MULTILINE))
def test_commands_are_understood(line: str) -> None:
    load_config(CyclicConfig, PRESETS, line.split())


def test_every_option_preset_and_ablation_is_on_the_page() -> None:
    config = CyclicConfig()
    names = [*PRESETS, *get_args(Ablation)]
    for name in CyclicConfig.model_fields:
        group = getattr(config, name)
        names += type(group).model_fields if hasattr(type(group), "model_fields") else [name]
    assert [name for name in names if not re.search(rf"\b{name}\b", PAGE)] == []
