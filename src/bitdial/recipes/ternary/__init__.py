"""Ternary training: weights in {-1, 0, 1} x scale through a long run that can be stopped and resumed, then packed."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
