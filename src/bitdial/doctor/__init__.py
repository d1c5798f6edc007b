"""The doctor: what this machine can do, found out by trying."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
