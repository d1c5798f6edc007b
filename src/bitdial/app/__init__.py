"""The browser app, and the jobs behind it; names are imported when they are first used."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
