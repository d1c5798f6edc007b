"""Training: the loop, tasks, optimizers, logs, progress, and what makes a run stoppable at any step."""

from bitdial.training.batches import BatchStream
from bitdial.training.checkpoint import CheckpointManager, DamagedCheckpoint, LoadedCheckpoint, read_checkpoint
from bitdial.training.csv_log import CsvLog
from bitdial.training.devices import make_fabric
from bitdial.training.distillation import Distillation
from bitdial.training.early_stopping import EarlyStopping
from bitdial.training.ema import WeightAverage
from bitdial.training.hooks import Hook
from bitdial.training.interrupts import Interrupts
from bitdial.training.learning_rate import LearningRateConfig, LearningRateFactor, learning_rate_factor
from bitdial.training.loop import fit
from bitdial.training.loop_config import LoopConfig
from bitdial.training.metrics_log import MetricsLog
from bitdial.training.mixed_precision import (
    AdaptiveMixedPrecisionTrainer,
    MixedPrecisionConfig,
    MixedPrecisionTrainer,
    train_with_mixed_precision,
)
from bitdial.training.optimizers import OptimizerConfig, build_optimizer, scaled_learning_rate
from bitdial.training.progress import Progress
from bitdial.training.recorder import TrainingDiverged
from bitdial.training.run_folder import RunFolder
from bitdial.training.saving import CheckpointSaver
from bitdial.training.scoring import Evaluate
from bitdial.training.seeding import preserved_random_state, random_state, restore_random_state, seed_everything
from bitdial.training.sharding import whole_weights
from bitdial.training.state import TrainingState
from bitdial.training.tasks import Classification, Task, TaskOutput
from bitdial.training.weight_statistics import WeightStatistics

__all__ = [
    "AdaptiveMixedPrecisionTrainer",
    "BatchStream",
    "CheckpointManager",
    "CheckpointSaver",
    "Classification",
    "CsvLog",
    "DamagedCheckpoint",
    "Distillation",
    "EarlyStopping",
    "Evaluate",
    "Hook",
    "Interrupts",
    "LearningRateConfig",
    "LearningRateFactor",
    "LoadedCheckpoint",
    "LoopConfig",
    "MetricsLog",
    "MixedPrecisionConfig",
    "MixedPrecisionTrainer",
    "OptimizerConfig",
    "Progress",
    "RunFolder",
    "Task",
    "TaskOutput",
    "TrainingDiverged",
    "TrainingState",
    "WeightAverage",
    "WeightStatistics",
    "build_optimizer",
    "fit",
    "learning_rate_factor",
    "make_fabric",
    "preserved_random_state",
    "random_state",
    "read_checkpoint",
    "restore_random_state",
    "scaled_learning_rate",
    "seed_everything",
    "train_with_mixed_precision",
    "whole_weights",
]
