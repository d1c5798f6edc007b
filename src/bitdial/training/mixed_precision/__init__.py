"""Mixed precision that can be stepped by hand, adapts to what it sees, and explains itself."""

from bitdial.training.mixed_precision.adaptive import AdaptiveMixedPrecisionTrainer
from bitdial.training.mixed_precision.config import MixedPrecisionConfig
from bitdial.training.mixed_precision.control import PrecisionControl
from bitdial.training.mixed_precision.epochs import train_with_mixed_precision
from bitdial.training.mixed_precision.trainer import MixedPrecisionTrainer, StepOutcome

__all__ = [
    "AdaptiveMixedPrecisionTrainer",
    "MixedPrecisionConfig",
    "MixedPrecisionTrainer",
    "PrecisionControl",
    "StepOutcome",
    "train_with_mixed_precision",
]
