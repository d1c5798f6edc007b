"""The JSON of a run: strict, and readable line by line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bitdial.files import write_atomically

__all__ = ["to_json", "write_atomically"]


def to_json(value: Any) -> str:
    """Return strict JSON text: indented objects, a list of plain values on one line, no NaN and no infinity.

    What is not finite becomes ``null``, because JSON has no word for it and other languages' readers stop at ``NaN``.
    One line per list keeps a history of a thousand steps readable beside the rest.
    """
    return _encode(_finite(value), "") + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _encode(value: Any, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{deeper}{json.dumps(key)}: {_encode(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(deeper + _encode(item, deeper) for item in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)
