"""SHIP: trained networks, run fast: packed weights, kernels in whole numbers, and what there is where these are not."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
