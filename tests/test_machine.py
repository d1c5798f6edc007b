"""The facts about a machine are there on every machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy
import pytest

from bitdial import machine


def test_memory_and_cores_are_within_what_there_is() -> None:
    assert 0 < machine.free_memory() <= machine.total_memory()
    assert 1 <= machine.usable_cores() <= (os.cpu_count() or 1)


def test_versions_leave_out_what_is_not_installed() -> None:
    assert machine.versions(["numpy", "no-such-package"]) == {"numpy": numpy.__version__}
    assert machine.version("no-such-package") is None


def test_processor_has_a_name_where_the_system_tells_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert machine.processor() == platform.machine()
    monkeypatch.setattr(platform, "machine", lambda: "")
    assert machine.processor() == "unknown"


def test_products_are_timed_in_every_format_once() -> None:
    speeds = machine.product_speeds("cpu")
    assert speeds.keys() <= {*machine.NARROW}
    assert "bfloat16" in speeds
    assert all(0 < speed < 1000 for speed in speeds.values())
    assert machine.product_speeds("cpu") is speeds
