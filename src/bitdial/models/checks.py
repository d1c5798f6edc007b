"""Checks that the builders share."""

from __future__ import annotations

from bitdial.errors import BitdialError


def check_positive(name: str, value: object, least: int = 1) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BitdialError(f"{name} must be a whole number from {least} up, got {value!r}")
