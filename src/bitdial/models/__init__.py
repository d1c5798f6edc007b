"""Networks by name, all of them safe to quantize: no layer's input is overwritten after the layer ran."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
