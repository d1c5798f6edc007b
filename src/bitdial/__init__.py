"""Train neural networks whose numeric precision follows a schedule.

Everything here is imported when it is first used, so that ``import bitdial`` is instant and a script that needs only
`bitdial.schedules` never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitdial import schedules as schedules
    from bitdial.evaluation.sweep import sweep as sweep
    from bitdial.layers import BitDial as BitDial
    from bitdial.layers import QuantConv1d as QuantConv1d
    from bitdial.layers import QuantConv2d as QuantConv2d
    from bitdial.layers import QuantLinear as QuantLinear
    from bitdial.layers import cost as cost
    from bitdial.layers import quantize as quantize
    from bitdial.layers import reestimate_batch_norm as reestimate_batch_norm
    from bitdial.recipes.cyclic import CyclicPrecisionScheduler as CyclicPrecisionScheduler
    from bitdial.recipes.cyclic import PrecisionRangeTest as PrecisionRangeTest
    from bitdial.training.mixed_precision import AdaptiveMixedPrecisionTrainer as AdaptiveMixedPrecisionTrainer
    from bitdial.training.mixed_precision import MixedPrecisionBenchmark as MixedPrecisionBenchmark
    from bitdial.training.mixed_precision import MixedPrecisionConfig as MixedPrecisionConfig
    from bitdial.training.mixed_precision import MixedPrecisionTrainer as MixedPrecisionTrainer
    from bitdial.training.mixed_precision import PrecisionDecision as PrecisionDecision
    from bitdial.training.mixed_precision import benchmark_mixed_precision as benchmark_mixed_precision
    from bitdial.training.mixed_precision import create_mixed_precision_config as create_mixed_precision_config
    from bitdial.training.mixed_precision import mixed_precision_context as mixed_precision_context
    from bitdial.training.mixed_precision import optimize_mixed_precision_settings as optimize_mixed_precision_settings
    from bitdial.training.mixed_precision import should_use_mixed_precision as should_use_mixed_precision
    from bitdial.training.mixed_precision import train_with_mixed_precision as train_with_mixed_precision

_HOMES = {
    "MixedPrecisionBenchmark": "bitdial.training.mixed_precision",
    "PrecisionDecision": "bitdial.training.mixed_precision",
    "benchmark_mixed_precision": "bitdial.training.mixed_precision",
    "create_mixed_precision_config": "bitdial.training.mixed_precision",
    "mixed_precision_context": "bitdial.training.mixed_precision",
    "optimize_mixed_precision_settings": "bitdial.training.mixed_precision",
    "should_use_mixed_precision": "bitdial.training.mixed_precision",
    "train_with_mixed_precision": "bitdial.training.mixed_precision",
    "MixedPrecisionTrainer": "bitdial.training.mixed_precision",
    "MixedPrecisionConfig": "bitdial.training.mixed_precision",
    "AdaptiveMixedPrecisionTrainer": "bitdial.training.mixed_precision",
    "BitDial": "bitdial.layers",
    "CyclicPrecisionScheduler": "bitdial.recipes.cyclic",
    "PrecisionRangeTest": "bitdial.recipes.cyclic",
    "QuantConv1d": "bitdial.layers",
    "QuantConv2d": "bitdial.layers",
    "QuantLinear": "bitdial.layers",
    "cost": "bitdial.layers",
    "quantize": "bitdial.layers",
    "reestimate_batch_norm": "bitdial.layers",
    "sweep": "bitdial.evaluation",
}

__all__ = [
    "AdaptiveMixedPrecisionTrainer",
    "BitDial",
    "CyclicPrecisionScheduler",
    "MixedPrecisionBenchmark",
    "MixedPrecisionConfig",
    "MixedPrecisionTrainer",
    "PrecisionDecision",
    "PrecisionRangeTest",
    "QuantConv1d",
    "QuantConv2d",
    "QuantLinear",
    "benchmark_mixed_precision",
    "cost",
    "create_mixed_precision_config",
    "mixed_precision_context",
    "optimize_mixed_precision_settings",
    "quantize",
    "reestimate_batch_norm",
    "schedules",
    "should_use_mixed_precision",
    "sweep",
    "train_with_mixed_precision",
]


def __getattr__(name: str) -> Any:
    if name == "schedules":
        return importlib.import_module("bitdial.schedules")
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("bitdial")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    from bitdial.errors import suggest

    raise AttributeError(f"module 'bitdial' has no attribute '{name}'{suggest(name, __all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
