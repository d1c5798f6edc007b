"""Mixed precision that can be stepped by hand, adapts to what it sees, and explains itself."""

from bitdial.training.mixed_precision.config import MixedPrecisionConfig

__all__ = ["MixedPrecisionConfig"]
