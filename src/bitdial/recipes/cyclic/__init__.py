"""Cyclic precision training: train while the precision cycles, fine-tune static configurations, compare them all."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
