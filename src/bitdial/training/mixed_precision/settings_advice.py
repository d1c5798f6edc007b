"""Settings of mixed precision for a network and a device, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from bitdial.errors import BitdialError
from bitdial.training.mixed_precision.config import MixedPrecisionConfig
from bitdial.training.mixed_precision.facts import (
    check_batch_size,
    count_parameters,
    device_of,
    memory_in_gb,
    narrow_format,
)
from bitdial.training.mixed_precision.formats import best_format, format_name


@dataclass(frozen=True)
class AdvisedSetting:
    """One setting of `MixedPrecisionConfig`, and why it has its value."""

    name: str
    value: Any
    reason: str


def advised_settings(
    model: nn.Module,
    batch_size: int,
    available_memory: float | None = None,
    *,
    device: torch.device | str | None = None,
) -> tuple[AdvisedSetting, ...]:
    """Return the settings of `optimize_mixed_precision_settings`, each with its reason; arguments and errors alike."""
    parameters = count_parameters(model)
    check_batch_size(batch_size)
    where = device_of(model, device)
    memory_in_gb(available_memory, where)
    dtype = narrow_format(where)
    name = format_name(dtype)
    native = best_format(where) == dtype
    scaled = "" if dtype == torch.float16 else " (of use in float16 only)"
    size = f"{parameters / 1e6:.1f} million parameters" if parameters >= 1_000_000 else f"{parameters:,} parameters"
    if parameters > 100_000_000:
        scale, growth, why = 2.0**20, 1.5, "over 100 million: small gradients, so a high scale that grows gently"
    elif parameters >= 10_000_000:
        scale, growth, why = 2.0**18, 2.0, "10 to 100 million: a scale above the usual, for its smaller gradients"
    else:
        scale, growth, why = 2.0**16, 2.0, "below 10 million: the usual scale"
    efficient = parameters >= 10_000_000
    keeping = "are worth freeing between steps" if efficient else "are small: overwriting spares the allocations"
    return (
        AdvisedSetting("dtype", dtype, f"{name} {'is native on' if native else 'is not native, yet least slow on'} "
                                       f"{where.type}"),
        AdvisedSetting("init_scale", scale, f"{size}, {why}{scaled}"),
        AdvisedSetting("growth_factor", growth, f"how fast the scale rises when all goes well{scaled}"),
        AdvisedSetting("memory_efficient", efficient, f"gradients of {4 * parameters / 1e6:,.1f} MB {keeping}"),
    )  # fmt: skip


def optimize_mixed_precision_settings(
    model: nn.Module,
    batch_size: int,
    available_memory: float | None = None,
    *,
    device: torch.device | str | None = None,
) -> MixedPrecisionConfig:
    """Return settings for a network on a device, for the case that mixed precision is used.

    They are enabled whatever `should_use_mixed_precision` says: that is its question.

    | parameters | `init_scale` | `growth_factor` | `memory_efficient` |
    |---|---|---|---|
    | over 100 million | 2**20 | 1.5 | True |
    | 10 to 100 million | 2**18 | 2 | True |
    | below 10 million | 2**16 | 2 | False |

    `dtype` is bfloat16 wherever the device is better at it, see `narrow_format`. `advised_settings` gives the reasons.

    Args:
        model: the network; left as it is. It may be on the meta device.
        batch_size: examples in a step. Checked; no setting depends on it.
        available_memory: GB. Checked; no setting depends on it.
        device: where it will train; by default where it is (on "meta": the GPU, else the CPU).

    Raises:
        BitdialError: an argument that is out of range, or a model without parameters.
    """
    advised = advised_settings(model, batch_size, available_memory, device=device)
    return MixedPrecisionConfig(**{each.name: each.value for each in advised})


def create_mixed_precision_config(
    enabled: bool = True,
    dtype: torch.dtype | str = torch.float16,
    init_scale: float = 2.0**16,
    memory_efficient: bool = True,
) -> MixedPrecisionConfig:
    """Return settings with the four that are changed most; see `MixedPrecisionConfig` for all.

    Args:
        enabled: False computes in float32.
        dtype: a dtype or its name.
        init_scale: float16: what the loss is multiplied with at first.
        memory_efficient: free gradients between steps.

    Raises:
        BitdialError: an unknown format or a value out of range.
    """
    try:
        return MixedPrecisionConfig(
            enabled=enabled, dtype=dtype, init_scale=init_scale, memory_efficient=memory_efficient
        )
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        if error["type"] == "value_error":  # a validator of ours: its text is a sentence already
            raise BitdialError(str(error["ctx"]["error"])) from None
        name = ".".join(str(part) for part in error["loc"])
        expected = error["msg"].removeprefix("Input should be ")
        raise BitdialError(f"{name} must be {expected}, got {error['input']!r}; change it") from None
