"""The examples of docs/integrations.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"


def example(heading: str) -> str:
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return str(code)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lightning() -> None:
    pytest.importorskip("lightning.pytorch", reason="needs the package lightning")
    names: dict[str, Any] = {"__name__": "page"}
    exec(example("Lightning"), names)
    assert names["trainer"].global_step == 16
    assert names["callback"].bits == [2]


def test_hugging_face() -> None:
    for package in ("transformers", "accelerate"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'bitdial[text]'")
    names: dict[str, Any] = {}
    exec(example("Hugging Face"), names)
    assert [row["bits"] for row in names["hf_trainer"].state.log_history if "bits" in row] == [8, 8, 4, 4, 8, 8] * 2
