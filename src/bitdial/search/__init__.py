"""Tuning: a space of options that a study searches, and the analyzer of finished runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bitdial.search.space import Space as Space

if TYPE_CHECKING:
    from bitdial.search.analyzer import HyperparameterAnalyzer as HyperparameterAnalyzer

_HOMES = {"HyperparameterAnalyzer": "bitdial.search.analyzer"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # what stands behind them brings matplotlib and torch
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bitdial.search' has no attribute '{name}'")
