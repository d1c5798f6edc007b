"""From the options of a run to the floating-point format that it computes in."""

from __future__ import annotations

import torch

from bitdial.configuration import SharedConfig
from bitdial.training import MixedPrecisionConfig
from bitdial.training.mixed_precision.formats import best_format, check_device, to_dtype


def mixed_precision_of(config: SharedConfig, device: torch.device) -> MixedPrecisionConfig:
    """The format and scale that a configuration asks for.

    Args:
        config: ``precision`` and the group ``mixed_precision``.
        device: where the run computes; what ``precision="auto"`` means depends on it.

    Raises:
        BitdialError: a format that the device lacks, or settings that contradict each other.
    """
    dtype = format_on(config.precision, device)
    check_device(dtype, device)
    return MixedPrecisionConfig(dtype=dtype, **config.mixed_precision.model_dump())


def format_on(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that a name means on a device."""
    return best_format(device) if precision == "auto" else to_dtype(precision)
