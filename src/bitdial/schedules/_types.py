"""The two shapes that a schedule can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]
"""From a step (0, 1, 2, ...) to a value; for widths, bits in [1, 32]."""

LayerSchedule: TypeAlias = Callable[[int, int], float]
"""From a step and a layer index (0 is the first layer) to a value."""
