"""Measure: accuracy over widths and seeds, comparisons; tables, plots, and the page that every run leaves.

Tables, plots, pages and reports are imported from their own modules, because they bring rich, matplotlib and jinja2.
"""

from bitdial.evaluation.comparison import summarise as summarise
from bitdial.evaluation.results import ArmResult as ArmResult
from bitdial.evaluation.results import ArmSummary as ArmSummary
from bitdial.evaluation.results import Comparison as Comparison
from bitdial.evaluation.results import History as History
from bitdial.evaluation.results import Interval as Interval
from bitdial.evaluation.results import Machine as Machine
from bitdial.evaluation.results import RunResults as RunResults
from bitdial.evaluation.results import WidthScore as WidthScore
from bitdial.evaluation.results import describe_machine as describe_machine
from bitdial.evaluation.statistics import interval as interval
from bitdial.evaluation.statistics import paired_difference as paired_difference
from bitdial.evaluation.sweep import evaluate_loss_accuracy as evaluate_loss_accuracy
from bitdial.evaluation.sweep import sweep as sweep
