"""How amounts are written for people, in reports, tables and the browser app alike; it loads nothing."""

from __future__ import annotations

import math

MISSING = "\u2013"
"""An en dash: what stands for a number that is not there."""
KIB = 1024


def seconds(value: float | None) -> str:
    """Return wall-clock seconds with the digits that mean something: ``"8.4"``, ``"75"``, ``"12 400"``."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}".replace(",", "\u202f")


def duration(value: float) -> str:
    """Return seconds in the units that suit them: ``"42 ms"``, ``"8.4 s"``, ``"1 min 15 s"``, ``"3 h 26 min"``.

    A number stays on one line with its unit.
    """
    if not math.isfinite(value):
        return MISSING
    if value <= 0:
        return "0\u00a0s"
    for unit, size in (("µs", 1e-6), ("ms", 1e-3)):
        if value < 999.5 * size:
            return f"{seconds(value / size)}\u00a0{unit}"
    whole = round(value)
    if whole < 60:
        return f"{seconds(value)}\u00a0s"
    if whole < 3600:
        return f"{whole // 60}\u00a0min {whole % 60:02d}\u00a0s"
    return f"{whole // 3600:,}\u00a0h {whole % 3600 // 60:02d}\u00a0min".replace(",", "\u202f")


def bytes_text(count: float) -> str:
    """Return a number of bytes as KiB or MiB: ``"94.2 KiB"``, ``"1.03 MiB"``."""
    return f"{count / KIB:.1f} KiB" if count < KIB**2 else f"{count / KIB**2:.2f} MiB"
