"""Mixed precision that can be stepped by hand, adapts to what it sees, and explains itself."""

from bitdial.training.mixed_precision.adaptive import AdaptiveMixedPrecisionTrainer
from bitdial.training.mixed_precision.applied_policies import AppliedPolicies, apply_policies, remove_policies
from bitdial.training.mixed_precision.config import MixedPrecisionConfig
from bitdial.training.mixed_precision.control import PrecisionControl
from bitdial.training.mixed_precision.epochs import train_with_mixed_precision
from bitdial.training.mixed_precision.float8 import Float8Conversion, convert_to_float8
from bitdial.training.mixed_precision.policies import PolicyRule, PrecisionPolicies, Stages, parse_policies
from bitdial.training.mixed_precision.trainer import MixedPrecisionTrainer, StepOutcome

__all__ = [
    "AdaptiveMixedPrecisionTrainer",
    "AppliedPolicies",
    "Float8Conversion",
    "MixedPrecisionConfig",
    "MixedPrecisionTrainer",
    "PolicyRule",
    "PrecisionControl",
    "PrecisionPolicies",
    "Stages",
    "StepOutcome",
    "apply_policies",
    "convert_to_float8",
    "parse_policies",
    "remove_policies",
    "train_with_mixed_precision",
]
