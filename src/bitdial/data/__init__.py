"""Datasets of images and of recordings, and loaders whose every batch is a pure function of (seed, epoch, batch)."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
