"""Image compression: codecs that are trained, and the balance of their two losses."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
