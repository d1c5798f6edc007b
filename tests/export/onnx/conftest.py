"""Exports in a row: torch reads its table of operators anew for each, a third of the time of a small network."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_table_of_operators() -> Iterator[None]:
    registration: Any = pytest.importorskip("torch.onnx._internal.exporter._registration")
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    kind = registration.ONNXRegistry
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "from_torchlib", staticmethod(cache(kind.from_torchlib)))
        yield
