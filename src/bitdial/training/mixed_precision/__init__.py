"""Mixed precision that can be stepped by hand, adapts to what it sees, and explains itself."""

from bitdial.training.mixed_precision.adaptive import AdaptiveMixedPrecisionTrainer, train_with_mixed_precision
from bitdial.training.mixed_precision.advice import (
    AdvisedSetting,
    PrecisionDecision,
    advised_settings,
    create_mixed_precision_config,
    optimize_mixed_precision_settings,
    should_use_mixed_precision,
)
from bitdial.training.mixed_precision.benchmark import MixedPrecisionBenchmark, benchmark_mixed_precision
from bitdial.training.mixed_precision.trainer import MixedPrecisionTrainer, StepOutcome
from bitdial.training.step.config import MixedPrecisionConfig
from bitdial.training.step.control import PrecisionControl
from bitdial.training.step.float8 import Float8Conversion, convert_to_float8
from bitdial.training.step.formats import mixed_precision_context
from bitdial.training.step.policies import (
    AppliedPolicies,
    PolicyRule,
    PrecisionPolicies,
    Stages,
    apply_policies,
    parse_policies,
    remove_policies,
)

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
