"""Train neural networks whose numeric precision follows a schedule.

Everything here is imported when it is first used, so that ``import bitdial`` is instant and a script that needs only
`bitdial.schedules` never loads torch. The names stand in ``__init__.pyi``.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_HOMES = {name: f"bitdial{home}" for home, name in re.findall(r"^from (\.\S*) import (\w+) as", _STUB, re.MULTILINE)}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("bitdial")
    if name in _HOMES:
        home = _HOMES[name]
        whole = home == "bitdial."  # a module, not a name in one
        return importlib.import_module(home + name) if whole else getattr(importlib.import_module(home), name)
    from bitdial.errors import suggest

    raise AttributeError(f"module 'bitdial' has no attribute '{name}'{suggest(name, __all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
