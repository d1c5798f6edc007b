"""WHERE: quantized layers, the conversion of a model, the dial, batch-norm statistics per width, the cost ledger."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
