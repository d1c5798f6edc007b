"""Mixed precision that can be stepped by hand, adapts to what it sees, and explains itself."""

from bitdial.training.mixed_precision.adaptive import AdaptiveMixedPrecisionTrainer as AdaptiveMixedPrecisionTrainer
from bitdial.training.mixed_precision.adaptive import train_with_mixed_precision as train_with_mixed_precision
from bitdial.training.mixed_precision.advice import AdvisedSetting as AdvisedSetting
from bitdial.training.mixed_precision.advice import PrecisionDecision as PrecisionDecision
from bitdial.training.mixed_precision.advice import advised_settings as advised_settings
from bitdial.training.mixed_precision.advice import create_mixed_precision_config as create_mixed_precision_config
from bitdial.training.mixed_precision.advice import (
    optimize_mixed_precision_settings as optimize_mixed_precision_settings,
)
from bitdial.training.mixed_precision.advice import should_use_mixed_precision as should_use_mixed_precision
from bitdial.training.mixed_precision.benchmark import MixedPrecisionBenchmark as MixedPrecisionBenchmark
from bitdial.training.mixed_precision.benchmark import benchmark_mixed_precision as benchmark_mixed_precision
from bitdial.training.mixed_precision.trainer import MixedPrecisionTrainer as MixedPrecisionTrainer
from bitdial.training.mixed_precision.trainer import StepOutcome as StepOutcome
from bitdial.training.step.config import MixedPrecisionConfig as MixedPrecisionConfig
from bitdial.training.step.control import PrecisionControl as PrecisionControl
from bitdial.training.step.float8 import Float8Conversion as Float8Conversion
from bitdial.training.step.float8 import convert_to_float8 as convert_to_float8
from bitdial.training.step.formats import mixed_precision_context as mixed_precision_context
from bitdial.training.step.policies import AppliedPolicies as AppliedPolicies
from bitdial.training.step.policies import PolicyRule as PolicyRule
from bitdial.training.step.policies import PrecisionPolicies as PrecisionPolicies
from bitdial.training.step.policies import Stages as Stages
from bitdial.training.step.policies import apply_policies as apply_policies
from bitdial.training.step.policies import parse_policies as parse_policies
from bitdial.training.step.policies import remove_policies as remove_policies
