"""Ready settings by name, each a YAML file beside this module whose first line says what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from bitdial.configuration.files import Loader

ORDER = ("fresh", "resume", "conservative", "regularized", "quick", "autoaugment", "compare")


def read_scenarios() -> dict[str, Mapping[str, Any]]:
    """Name -> settings, as in a file given with ``--config``."""
    return {name: yaml.load(_text(name), Loader=Loader) or {} for name in ORDER}


def summaries() -> dict[str, str]:
    """Name -> what a scenario is for, in a line."""
    return {name: _text(name).split("\n", 1)[0].lstrip("# ") for name in ORDER}


def list_scenarios(console: Console) -> None:
    """Print the scenarios, one a line."""
    table = Table.grid(padding=(0, 2))
    for name, summary in summaries().items():
        table.add_row(f"  {name}", summary)
    console.print("Scenarios of `bitdial train ternary SCENARIO [--flag value ...]`:\n", highlight=False)
    console.print(table)
    console.print("\nFlags win over the scenario; `bitdial train ternary --help` lists them.", highlight=False)


def _text(name: str) -> str:
    return resources.files(__package__).joinpath("scenarios", f"{name}.yaml").read_text(encoding="utf-8")


SCENARIOS = read_scenarios()
