"""What a user would call first shows how, and the examples run as they stand."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from pkgutil import resolve_name

import pytest

FIRST = [
    "bitdial:BitDial",
    "bitdial:CyclicPrecisionScheduler",
    "bitdial:MixedPrecisionTrainer",
    "bitdial:PrecisionRangeTest",
    "bitdial:cost",
    "bitdial:load",
    "bitdial:quantize",
    "bitdial:reestimate_batch_norm",
    "bitdial:run",
    "bitdial:sweep",
    "bitdial.data:load_dataset",
    "bitdial.export:save_packed",
    "bitdial.models:build_model",
    "bitdial.recipes.cyclic:compare_bit_configurations",
    "bitdial.recipes.cyclic:train_with_cpt",
    "bitdial.training:CheckpointManager",
]


@pytest.mark.parametrize("name", FIRST)
def test_the_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(resolve_name(name)) or ""
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert example.examples
    told: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=told.append)
    assert not told, "".join(told)
