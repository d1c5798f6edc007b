"""Accuracies in per cent beside our own fractions."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitdial.search.readers import FoundRun
from bitdial.search.shares import as_fractions


def found(source: str, group: str | None = None, **metrics: float) -> FoundRun:
    return FoundRun(source, source, Path(), "finished", {}, metrics, None, [], group)


def test_per_cent_becomes_a_fraction_beside_runs_of_ours() -> None:
    runs = [
        found("bitdial", val_accuracy=0.83, loss=1.5), found("wandb", "a", val_accuracy=85.54, loss=2.5),
        found("wandb", "a", val_accuracy=0.9), found("csv", val_accuracy=0.7), found("json", val_accuracy=1e9),
    ]  # fmt: skip
    after = as_fractions(runs)
    accuracies = [run.metrics["val_accuracy"] for run in after]
    assert accuracies == pytest.approx([0.83, 0.8554, 0.009, 0.7, 1e9])
    assert after[1].metrics["loss"] == 2.5
    assert [run.notes != [] for run in after] == [False, True, True, False, False]
    assert runs[1].metrics["val_accuracy"] == 85.54


def test_without_runs_of_ours_nothing_is_known() -> None:
    runs = [found("wandb", val_accuracy=85.54), found("csv", val_accuracy=0.9)]
    assert as_fractions(runs) == runs
