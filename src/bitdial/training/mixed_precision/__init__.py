"""Mixed precision that can be stepped by hand, adapts to what it sees, and explains itself."""

from bitdial.training.mixed_precision.adaptive import AdaptiveMixedPrecisionTrainer
from bitdial.training.mixed_precision.advice import PrecisionDecision, should_use_mixed_precision
from bitdial.training.mixed_precision.applied_policies import AppliedPolicies, apply_policies, remove_policies
from bitdial.training.mixed_precision.benchmark import benchmark_mixed_precision
from bitdial.training.mixed_precision.benchmark_result import MixedPrecisionBenchmark
from bitdial.training.mixed_precision.config import MixedPrecisionConfig
from bitdial.training.mixed_precision.context import mixed_precision_context
from bitdial.training.mixed_precision.control import PrecisionControl
from bitdial.training.mixed_precision.epochs import train_with_mixed_precision
from bitdial.training.mixed_precision.float8 import Float8Conversion, convert_to_float8
from bitdial.training.mixed_precision.policies import PolicyRule, PrecisionPolicies, Stages, parse_policies
from bitdial.training.mixed_precision.settings_advice import (
    AdvisedSetting,
    advised_settings,
    create_mixed_precision_config,
    optimize_mixed_precision_settings,
)
from bitdial.training.mixed_precision.trainer import MixedPrecisionTrainer, StepOutcome

__all__ = [
    "AdaptiveMixedPrecisionTrainer",
    "AdvisedSetting",
    "AppliedPolicies",
    "Float8Conversion",
    "MixedPrecisionBenchmark",
    "MixedPrecisionConfig",
    "MixedPrecisionTrainer",
    "PolicyRule",
    "PrecisionControl",
    "PrecisionDecision",
    "PrecisionPolicies",
    "Stages",
    "StepOutcome",
    "advised_settings",
    "apply_policies",
    "benchmark_mixed_precision",
    "convert_to_float8",
    "create_mixed_precision_config",
    "mixed_precision_context",
    "optimize_mixed_precision_settings",
    "parse_policies",
    "remove_policies",
    "should_use_mixed_precision",
    "train_with_mixed_precision",
]
