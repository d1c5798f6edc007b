"""Measure: accuracy over widths and seeds, comparisons; tables, plots, and the page that every run leaves.

Tables, plots, pages and reports are imported from their own modules, because they bring rich, matplotlib and jinja2;
`plot_bitwidth_vs_accuracy` and `plot_layer_sensitivity` are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bitdial.evaluation.average_width import get_average_bitwidth as get_average_bitwidth
from bitdial.evaluation.comparison import summarise as summarise
from bitdial.evaluation.random_widths import VALIDATION_FUNCTIONS as VALIDATION_FUNCTIONS
from bitdial.evaluation.random_widths import validate_fixed_bitwidth as validate_fixed_bitwidth
from bitdial.evaluation.random_widths import validate_random_bitwidths as validate_random_bitwidths
from bitdial.evaluation.random_widths import validate_simple as validate_simple
from bitdial.evaluation.results import ArmResult as ArmResult
from bitdial.evaluation.results import ArmSummary as ArmSummary
from bitdial.evaluation.results import Comparison as Comparison
from bitdial.evaluation.results import History as History
from bitdial.evaluation.results import Interval as Interval
from bitdial.evaluation.results import Machine as Machine
from bitdial.evaluation.results import RunResults as RunResults
from bitdial.evaluation.results import WidthScore as WidthScore
from bitdial.evaluation.results import describe_machine as describe_machine
from bitdial.evaluation.sensitivity import LayerSensitivity as LayerSensitivity
from bitdial.evaluation.sensitivity import layer_sensitivity as layer_sensitivity
from bitdial.evaluation.statistics import interval as interval
from bitdial.evaluation.statistics import paired_difference as paired_difference
from bitdial.evaluation.sweep import evaluate_loss_accuracy as evaluate_loss_accuracy
from bitdial.evaluation.sweep import sweep as sweep
from bitdial.evaluation.width_choice import Knee as Knee
from bitdial.evaluation.width_choice import WidthVerdict as WidthVerdict
from bitdial.evaluation.width_choice import knee as knee
from bitdial.evaluation.width_choice import width_verdict as width_verdict
from bitdial.evaluation.width_search import MixedWidths as MixedWidths
from bitdial.evaluation.width_search import WidthChoice as WidthChoice
from bitdial.evaluation.width_search import search_widths as search_widths
from bitdial.evaluation.width_validation import ConfigurationScore as ConfigurationScore
from bitdial.evaluation.width_validation import Spread as Spread
from bitdial.evaluation.width_validation import WidthValidation as WidthValidation

if TYPE_CHECKING:
    from bitdial.evaluation.width_plots import plot_bitwidth_vs_accuracy as plot_bitwidth_vs_accuracy
    from bitdial.evaluation.width_plots import plot_layer_sensitivity as plot_layer_sensitivity

_PLOTS = ("plot_bitwidth_vs_accuracy", "plot_layer_sensitivity")


def __getattr__(name: str) -> Any:
    if name in _PLOTS:  # they bring matplotlib
        return getattr(importlib.import_module("bitdial.evaluation.width_plots"), name)
    raise AttributeError(f"module 'bitdial.evaluation' has no attribute '{name}'")
