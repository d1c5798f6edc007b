# The public names of bitdial, each once: type checkers read them here, and so does __init__.py, which imports each from
# its home when it is first used.
from . import schedules as schedules
from .evaluation import sweep as sweep
from .evaluation.range_test import PrecisionRangeTest as PrecisionRangeTest
from .export import export as export
from .layers import BitDial as BitDial
from .layers import QuantConv1d as QuantConv1d
from .layers import QuantConv2d as QuantConv2d
from .layers import QuantConvTranspose1d as QuantConvTranspose1d
from .layers import QuantConvTranspose2d as QuantConvTranspose2d
from .layers import QuantLinear as QuantLinear
from .layers import cost as cost
from .layers import quantize as quantize
from .layers import reestimate_batch_norm as reestimate_batch_norm
from .layers.cycling import CyclicPrecisionScheduler as CyclicPrecisionScheduler
from .recipes.api import load as load
from .recipes.api import run as run
from .recipes.compress.codecs import load_codec as load_codec
from .training.mixed_precision import AdaptiveMixedPrecisionTrainer as AdaptiveMixedPrecisionTrainer
from .training.mixed_precision import MixedPrecisionBenchmark as MixedPrecisionBenchmark
from .training.mixed_precision import MixedPrecisionConfig as MixedPrecisionConfig
from .training.mixed_precision import MixedPrecisionTrainer as MixedPrecisionTrainer
from .training.mixed_precision import PrecisionDecision as PrecisionDecision
from .training.mixed_precision import benchmark_mixed_precision as benchmark_mixed_precision
from .training.mixed_precision import create_mixed_precision_config as create_mixed_precision_config
from .training.mixed_precision import mixed_precision_context as mixed_precision_context
from .training.mixed_precision import optimize_mixed_precision_settings as optimize_mixed_precision_settings
from .training.mixed_precision import should_use_mixed_precision as should_use_mixed_precision
from .training.mixed_precision import train_with_mixed_precision as train_with_mixed_precision

__version__: str
__all__: list[str]
