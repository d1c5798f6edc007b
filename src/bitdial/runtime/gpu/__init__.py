"""The packed runtime on a GPU: weights of 2 to 8 bits in memory, products by kernels in Triton."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
