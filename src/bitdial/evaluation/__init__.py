"""Measure: accuracy over widths and seeds, cycle analysis, comparisons; tables, plots and the report of a run.

``table``, ``plots`` and ``report`` are imported from their own modules, because they bring rich, matplotlib and jinja2.
"""

from bitdial.evaluation.assemble import assemble as assemble
from bitdial.evaluation.comparison import summarise as summarise
from bitdial.evaluation.cycles import analyze_cycle_progression as analyze_cycle_progression
from bitdial.evaluation.machine import describe_machine as describe_machine
from bitdial.evaluation.results import ArmResult as ArmResult
from bitdial.evaluation.results import ArmSummary as ArmSummary
from bitdial.evaluation.results import Comparison as Comparison
from bitdial.evaluation.results import CycleAnalysis as CycleAnalysis
from bitdial.evaluation.results import CyclicResults as CyclicResults
from bitdial.evaluation.results import History as History
from bitdial.evaluation.results import Interval as Interval
from bitdial.evaluation.results import Machine as Machine
from bitdial.evaluation.results import WidthScore as WidthScore
from bitdial.evaluation.statistics import interval as interval
from bitdial.evaluation.statistics import paired_difference as paired_difference
from bitdial.evaluation.sweep import evaluate_loss_accuracy as evaluate_loss_accuracy
from bitdial.evaluation.sweep import sweep as sweep
