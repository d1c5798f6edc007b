"""Advice on mixed precision: whether a network would gain from it on a device, with which settings, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from bitdial.errors import BitdialError
from bitdial.training.mixed_precision.facts import (
    check_batch_size,
    count_parameters,
    device_of,
    memory_in_gb,
    narrow_format,
    share_of_products,
)
from bitdial.training.step.config import MixedPrecisionConfig
from bitdial.training.step.formats import best_format, format_name

MANY_PARAMETERS, FEW_PARAMETERS = 1_000_000, 100_000
LARGE_BATCH, TINY_BATCH = 8, 4
LITTLE_MEMORY = 16.0
"""In GB."""
ENOUGH_POINTS = 2


@dataclass(frozen=True)
class PrecisionDecision:
    """Whether to use mixed precision, and why; true in an `if` where it should be used.

    Attributes:
        use: the decision.
        reasons_for, reasons_against: what spoke for it and against it, a sentence each.
        points: their sum; at least 2 is a yes.
        dtype: the format that was judged.
        device: where, as "cpu" or "cuda:0".
        parameters: of the model.
        product_share: share of its work that is convolutions and matrix products, in [0, 1].
        available_memory: in GB.
    """

    use: bool
    reasons_for: tuple[str, ...]
    reasons_against: tuple[str, ...]
    points: int
    dtype: torch.dtype
    device: str
    parameters: int
    product_share: float
    available_memory: float

    def __bool__(self) -> bool:
        return self.use

    def __str__(self) -> str:
        verdict = f"Use mixed precision ({format_name(self.dtype)})." if self.use else "Stay in float32."
        lists = (("For", self.reasons_for), ("Against", self.reasons_against))
        return "\n".join([verdict, *(f"{title}: {' '.join(reasons)}" for title, reasons in lists if reasons)])


def should_use_mixed_precision(
    model: nn.Module,
    batch_size: int,
    available_memory: float | None = None,
    *,
    device: torch.device | str | None = None,
    example_input: Any = None,
) -> PrecisionDecision:
    """Decide whether a network would gain from mixed precision on a device; a rule of thumb, which a benchmark beats.

    Each fact gives points; from 2 points on the answer is yes:

    | fact | points |
    |---|--:|
    | the device computes in no narrow format natively | no, whatever the rest says |
    | more than 1 million parameters | +2 |
    | fewer than 100 thousand parameters | -3 |
    | a batch of 8 or more | +1 |
    | a batch below 4 | -1 |
    | less than 16 GB of memory | +1 |
    | at least half of the work is convolutions and matrix products | +1 |
    | less than half is | -1 |

    So a network above 1 million is told to, unless batch or work speak against it and nothing else for it; a middling
    one needs two things that speak for it; one below 100 thousand, whose steps are all overhead, is never told to.

    Args:
        model: the network; left as it is. It may be on the meta device.
        batch_size: examples in a step.
        available_memory: GB; None asks the device what is free.
        device: where it will train; by default where it is (on "meta": the GPU, else the CPU).
        example_input: as for `bitdial.cost`; the work is then counted in operations, else in weights.

    Raises:
        BitdialError: an argument that is out of range, or a model without parameters.
    """
    parameters = count_parameters(model)
    batch_size = check_batch_size(batch_size)
    where = device_of(model, device)
    memory = memory_in_gb(available_memory, where)
    share = share_of_products(model, example_input)
    verdicts = [
        _on_parameters(parameters),
        _on_batch(batch_size),
        _on_memory(memory),
        _on_share(share, counted=example_input is not None),
    ]
    points = sum(worth for worth, _ in verdicts)
    reasons_for = [reason for worth, reason in verdicts if worth > 0]
    reasons_against = [reason for worth, reason in verdicts if worth < 0]
    native = best_format(where) != torch.float32
    if not native:
        reasons_against.insert(
            0,
            f"This device ({where}) computes neither bfloat16 nor float16 natively, so narrow steps would not "
            "take less time than float32; this decides.",
        )
    return PrecisionDecision(
        use=native and points >= ENOUGH_POINTS,
        reasons_for=tuple(reasons_for),
        reasons_against=tuple(reasons_against),
        points=points,
        dtype=narrow_format(where),
        device=str(where),
        parameters=parameters,
        product_share=share,
        available_memory=memory,
    )


Verdict = tuple[int, str]
"""Points, and the reason for them."""


def _on_parameters(count: int) -> Verdict:
    if count > MANY_PARAMETERS:
        return 2, f"It has {count / 1e6:.1f} million parameters, so its products are large (above 1 million)."
    if count < FEW_PARAMETERS:
        return -3, f"It has only {count:,} parameters (below 100,000): its steps are mostly overhead."
    return 0, ""


def _on_batch(size: int) -> Verdict:
    if size >= LARGE_BATCH:
        return 1, f"A batch of {size} keeps the device busy (8 or more)."
    if size < TINY_BATCH:
        return -1, f"A batch of {size} leaves the device waiting (below 4)."
    return 0, ""


def _on_memory(memory: float) -> Verdict:
    if memory < LITTLE_MEMORY:
        return 1, f"Only {memory:.1f} GB of memory are available (below 16), and activations would take half of theirs."
    return 0, ""


def _on_share(share: float, *, counted: bool) -> Verdict:
    what = "work is" if counted else "weights are"
    part = f"{share:.0%} of its {what} convolutions and matrix products"
    if share >= 0.5:
        return 1, f"{part}, which become faster."
    return -1, f"Only {part}; the rest does not become faster."


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
