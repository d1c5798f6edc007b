"""An analyzer of made-up runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")
pytest.importorskip("pandas")

from bitdial.search import HyperparameterAnalyzer
from bitdial.search.readers import FoundRun, Unread

Make = Callable[..., HyperparameterAnalyzer]


@pytest.fixture
def analyzer_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a function that makes an analyzer of the runs that it is given."""

    def make(runs: Sequence[FoundRun], unread: Sequence[Unread] = (), **options: Any) -> HyperparameterAnalyzer:
        monkeypatch.setattr("bitdial.search.analysis.read_runs", lambda folder: (list(runs), list(unread)))
        return HyperparameterAnalyzer(tmp_path, **options)

    return make
