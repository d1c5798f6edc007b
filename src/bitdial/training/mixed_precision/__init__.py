"""Mixed precision that can be stepped by hand, adapts to what it sees, and explains itself."""

from bitdial.training.mixed_precision.applied_policies import AppliedPolicies, apply_policies, remove_policies
from bitdial.training.mixed_precision.config import MixedPrecisionConfig
from bitdial.training.mixed_precision.float8 import Float8Conversion, convert_to_float8
from bitdial.training.mixed_precision.policies import PolicyRule, PrecisionPolicies, Stages, parse_policies

__all__ = [
    "AppliedPolicies",
    "Float8Conversion",
    "MixedPrecisionConfig",
    "PolicyRule",
    "PrecisionPolicies",
    "Stages",
    "apply_policies",
    "convert_to_float8",
    "parse_policies",
    "remove_policies",
]
