from bitdial.app.interface import benchmark_mixed_precision_interface as benchmark_mixed_precision_interface
from bitdial.app.interface import get_mixed_precision_recommendations as get_mixed_precision_recommendations
from bitdial.app.interface import (
    train_model_with_mixed_precision_interface as train_model_with_mixed_precision_interface,
)
from bitdial.app.jobs import JobManager as JobManager
from bitdial.app.records import FileEntry as FileEntry
from bitdial.app.records import LogPart as LogPart
from bitdial.app.records import Problem as Problem
from bitdial.app.records import RunStatus as RunStatus
from bitdial.app.records import Score as Score
from bitdial.app.records import SeriesPart as SeriesPart
