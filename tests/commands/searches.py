"""Searches with tiny budgets, for the tests of ``bitdial search``."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from bitdial.search.storage import open_storage

LR = "lr: {low: 1e-3, high: .5, log: true}\n"
TINY = ("--model", "tiny_cnn")
OF = {
    "ternary": ("--steps", "20", "--batch_size", "64", "--keep_best", "0", *TINY),
    "cyclic": ("--steps", "10", *TINY),
    "joint": ("--steps", "21", *TINY),
    "compress": ("--steps", "4", "--batch_size", "2", "--crop", "32", "--crops", "2", "--model_options.channels", "8"),
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Path("space.yaml").write_text(LR)
    return tmp_path


def words(recipe: str, *more: str, trials: int = 2) -> list[str]:
    return ["search", recipe, "--space", "space.yaml", "--trials", str(trials), "--seed", "1", *OF[recipe], *more]


def study(recipe: str = "ternary", storage: str | None = None) -> optuna.Study:
    opened = open_storage(storage or f"journal:runs/search-{recipe}.log")
    return optuna.load_study(storage=opened, study_name=recipe)
