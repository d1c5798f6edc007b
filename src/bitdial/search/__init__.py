"""Tuning: a space of options that a study searches, and the analyzer of finished runs."""

from __future__ import annotations

from bitdial.search.space import Space as Space
