"""Callbacks that turn the dial in other people's training loops.

Importing this room imports neither Lightning nor transformers: each callback does when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitdial.integrations.huggingface import CyclicPrecisionTrainerCallback as CyclicPrecisionTrainerCallback
    from bitdial.integrations.lightning import CyclicPrecisionCallback as CyclicPrecisionCallback

_HOMES = {
    "CyclicPrecisionCallback": "bitdial.integrations.lightning",
    "CyclicPrecisionTrainerCallback": "bitdial.integrations.huggingface",
}

__all__ = ["CyclicPrecisionCallback", "CyclicPrecisionTrainerCallback"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    from bitdial.errors import suggest

    raise AttributeError(f"module 'bitdial.integrations' has no attribute '{name}'{suggest(name, __all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
