"""Train neural networks whose numeric precision follows a schedule.

Everything here is imported when it is first used, so that ``import bitdial`` is instant and a script that needs only
`bitdial.schedules` never loads torch. The names stand in ``__init__.pyi``.
"""

from __future__ import annotations

from typing import Any

from bitdial.lazy import attach

_name, __dir__, __all__ = attach(__name__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("bitdial")
    return _name(name)
