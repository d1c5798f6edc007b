"""The examples of docs/search.md."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

import bitdial
from bitdial.recipes import find_recipe
from bitdial.search import Space

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_space_is_one_of_the_recipe_in_the_example(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(block("yaml"))
    assert " search cyclic " in block("sh")
    space = Space.read(path, find_recipe("cyclic").options)
    assert list(space.searched) == ["lr", "batch_size", "cyclic.cycle_length"]
    assert space.fixed == {"weight_decay": 5e-4}


def test_a_study_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def run(recipe: str, **options: Any) -> Any:
        seen.append(options)
        return SimpleNamespace(networks=[SimpleNamespace(validation=SimpleNamespace(accuracy=options["lr"]))])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bitdial, "run", run)
    Path("space.yaml").write_text("lr: {low: .1, high: .2}\nsteps: 3\n")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    exec(block("python"), {})
    assert len(seen) == 10
    assert all(0.1 <= options["lr"] <= 0.2 and options["steps"] == 3 for options in seen)
