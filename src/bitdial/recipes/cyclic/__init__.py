"""Cyclic precision training: train while the precision cycles, fine-tune static configurations, compare them all."""

from bitdial.recipes.cyclic.best_model import load_best_model as load_best_model
from bitdial.recipes.cyclic.compare import compare_bit_configurations as compare_bit_configurations
from bitdial.recipes.cyclic.config import CyclicConfig as CyclicConfig
from bitdial.recipes.cyclic.config import CyclicPrecisionConfig as CyclicPrecisionConfig
from bitdial.recipes.cyclic.config import CyclicTrainingConfig as CyclicTrainingConfig
from bitdial.recipes.cyclic.config import ExperimentConfig as ExperimentConfig
from bitdial.recipes.cyclic.config import ModelConfig as ModelConfig
from bitdial.recipes.cyclic.config import StaticPrecisionConfig as StaticPrecisionConfig
from bitdial.recipes.cyclic.cycles import analyze_cycle_progression as analyze_cycle_progression
from bitdial.recipes.cyclic.experiment import Experiment as Experiment
from bitdial.recipes.cyclic.matched import schedule_bitops as schedule_bitops
from bitdial.recipes.cyclic.phase import Loaders as Loaders
from bitdial.recipes.cyclic.phase import PhaseResult as PhaseResult
from bitdial.recipes.cyclic.phase import PhaseSetup as PhaseSetup
from bitdial.recipes.cyclic.presets import PRESETS as PRESETS
from bitdial.recipes.cyclic.range_test import PrecisionRangeTest as PrecisionRangeTest
from bitdial.recipes.cyclic.range_test import RangeTestResult as RangeTestResult
from bitdial.recipes.cyclic.scheduler import CyclicPrecisionScheduler as CyclicPrecisionScheduler
from bitdial.recipes.cyclic.train import evaluate_cyclic_training as evaluate_cyclic_training
from bitdial.recipes.cyclic.train import train_with_cpt as train_with_cpt
from bitdial.recipes.cyclic.train import train_with_static_precision as train_with_static_precision
