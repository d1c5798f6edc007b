"""Image compression: codecs that are trained, and the balance of their two losses."""

from bitdial.compression.balanced import BalancedOptimizer as BalancedOptimizer
from bitdial.compression.cautious import CautiousAdam as CautiousAdam
from bitdial.compression.gamma import AdaptiveGammaScheduler as AdaptiveGammaScheduler
from bitdial.compression.gamma import HPCMGammaScheduler as HPCMGammaScheduler
from bitdial.compression.quadratic import QuadraticBalance as QuadraticBalance
from bitdial.compression.quadratic import quadratic_weights as quadratic_weights
from bitdial.compression.task_weights import TaskWeights as TaskWeights
