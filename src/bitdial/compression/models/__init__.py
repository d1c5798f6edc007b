"""Codecs that are trained: `[B, 3, H, W]` to latents and back, with the bits of every coding step."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
