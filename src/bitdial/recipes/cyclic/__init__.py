"""Cyclic precision training: train while the precision cycles, fine-tune static configurations, compare them all."""

from bitdial.evaluation.equal_cost import schedule_bitops as schedule_bitops
from bitdial.evaluation.range_test import PrecisionRangeTest as PrecisionRangeTest
from bitdial.evaluation.range_test import RangeTestResult as RangeTestResult
from bitdial.evaluation.trained import PhaseResult as PhaseResult
from bitdial.layers.cycling import CyclicPrecisionConfig as CyclicPrecisionConfig
from bitdial.layers.cycling import CyclicPrecisionScheduler as CyclicPrecisionScheduler
from bitdial.recipes.cyclic.cycles import analyze_cycle_progression as analyze_cycle_progression
from bitdial.recipes.cyclic.options import PRESETS as PRESETS
from bitdial.recipes.cyclic.options import CyclicConfig as CyclicConfig
from bitdial.recipes.cyclic.options import CyclicTrainingConfig as CyclicTrainingConfig
from bitdial.recipes.cyclic.options import ExperimentConfig as ExperimentConfig
from bitdial.recipes.cyclic.options import ModelConfig as ModelConfig
from bitdial.recipes.cyclic.options import StaticPrecisionConfig as StaticPrecisionConfig
from bitdial.recipes.cyclic.recipe import CYCLIC as CYCLIC
from bitdial.recipes.cyclic.results import CyclicResults as CyclicResults
from bitdial.recipes.cyclic.scripts import compare_bit_configurations as compare_bit_configurations
from bitdial.recipes.cyclic.scripts import evaluate_cyclic_training as evaluate_cyclic_training
from bitdial.recipes.cyclic.scripts import load_best_model as load_best_model
from bitdial.recipes.cyclic.scripts import train_with_cpt as train_with_cpt
from bitdial.recipes.cyclic.scripts import train_with_static_precision as train_with_static_precision
from bitdial.recipes.recipe import Loaders as Loaders
from bitdial.training import Setup as PhaseSetup  # noqa: F401  (the name that scripts know)
