"""Advice on mixed precision: whether a network would gain from it on a device, with which settings, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers import cost
from bitdial.layers.convert import KINDS
from bitdial.layers.ledger import arguments_of
from bitdial.layers.names import check_model
from bitdial.machine import fastest, free_memory
from bitdial.training.step.config import MixedPrecisionConfig
from bitdial.training.step.formats import FORMATS, best_format, format_name, narrow_format, parse_device

GB = 1 << 30
"""Bytes of a GB, as memory is sold."""

MACS_PER_VALUE = 64
"""What moving one value between two layers counts as, in multiply-accumulates: while memory reads and writes 8 bytes, a
processor or GPU computes about that many in float32 (10-20 floating-point operations for each byte)."""

_LOOK_UPS = (nn.Embedding, nn.EmbeddingBag)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True)
class PrecisionDecision:
    """Whether to use mixed precision, and why; true in an `if` where it should be used.

    Attributes:
        reasons_for, reasons_against: what spoke for it and against it, a sentence each.
        points: their sum; at least 2 is a yes.
        dtype: the format that was judged.
        device: where, as "cpu" or "cuda:0".
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
    speeds: Mapping[str, float] | None = None,
) -> PrecisionDecision:
    """Decide whether a network would gain from mixed precision on a device; a rule of thumb, which a benchmark beats.

    Each fact gives points; from 2 points on the answer is yes:

    | fact | points |
    |---|--:|
    | the device computes in no narrow format natively, or is no faster in it as timed | no, whatever the rest says |
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
        speeds: format -> how many times as fast as float32 its products are, where that was timed
            (`bitdial.machine.product_speeds`); None: what the device says of itself decides.

    Raises:
        BitdialError: an argument that is out of range, or a model without parameters.
    """
    parameters, where, memory = _facts(model, batch_size, available_memory, device)
    share = share_of_products(model, example_input)
    part = f"{share:.0%} of its {'weights are' if example_input is None else 'work is'}"
    dtype, slow = _narrow(where, speeds)
    weighed = (
        (slow is not None, 0, f"{slow}, so narrow steps would not take less time than float32; this decides."),
        (parameters > 1_000_000, 2,
         f"It has {parameters / 1e6:.1f} million parameters, so its products are large (above 1 million)."),
        (parameters < 100_000, -3,
         f"It has only {parameters:,} parameters (below 100,000): its steps are mostly overhead."),
        (batch_size >= 8, 1, f"A batch of {batch_size} keeps the device busy (8 or more)."),
        (batch_size < 4, -1, f"A batch of {batch_size} leaves the device waiting (below 4)."),
        (memory < 16, 1,
         f"Only {memory:.1f} GB of memory are available (below 16), and activations would take half of theirs."),
        (share >= 0.5, 1, f"{part} convolutions and matrix products, which become faster."),
        (share < 0.5, -1, f"Only {part} convolutions and matrix products; the rest does not become faster."),
    )  # fmt: skip
    points = sum(worth for holds, worth, _ in weighed if holds)
    return PrecisionDecision(
        use=slow is None and points >= 2,
        reasons_for=tuple(reason for holds, worth, reason in weighed if holds and worth > 0),
        reasons_against=tuple(reason for holds, worth, reason in weighed if holds and worth <= 0),
        points=points,
        dtype=dtype,
        device=str(where),
        parameters=parameters,
        product_share=share,
        available_memory=memory,
    )


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
    speeds: Mapping[str, float] | None = None,
) -> tuple[AdvisedSetting, ...]:
    """Return the settings of `optimize_mixed_precision_settings`, each with its reason; arguments and errors alike."""
    parameters, where, _ = _facts(model, batch_size, available_memory, device)
    dtype, slow = _narrow(where, speeds)
    name = format_name(dtype)
    reason = f"{name} is {'native on' if slow is None else 'not native, yet least slow on'} {where.type}"
    if speeds:
        reason = f"{name} products are {speeds[name]:.2g} times as fast as float32's on {where.type}, as timed"
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
        AdvisedSetting("dtype", dtype, reason),
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

    Arguments are those of `should_use_mixed_precision`; of `batch_size` and `available_memory` (GB), which are checked,
    no setting depends.

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
        name, expected = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Input should be ")
        raise BitdialError(f"{name} must be {expected}, got {error['input']!r}; change it") from None


def _narrow(where: torch.device, speeds: Mapping[str, float] | None) -> tuple[torch.dtype, str | None]:
    """The narrow format that is judged, and why it takes no less time than float32; None where it does."""
    if speeds:
        name = fastest(speeds)
        best = max(speeds, key=lambda each: speeds[each]) if name == "float32" else name
        told = f"Products in {best} were timed here ({where}) at {speeds[best]:.2g} times the speed of float32"
        return FORMATS[best], told if name == "float32" else None
    native = best_format(where) != torch.float32
    return narrow_format(where), None if native else (
        f"This device ({where}) computes neither bfloat16 nor float16 natively"
    )


def _facts(
    model: nn.Module, batch_size: int, available_memory: float | None, device: torch.device | str | None
) -> tuple[int, torch.device, float]:
    """The number of parameters, the device and the GB to count with (where not given, what is free on it now)."""
    parameters = count_parameters(model)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise BitdialError(f"batch_size must be a whole number from 1 up, got {batch_size!r}; give the examples a step")
    where = device_of(model, device)
    memory: Any = available_memory
    if memory is None:
        free = torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else free_memory()
        return parameters, where, free / GB
    usable = isinstance(memory, int | float) and not isinstance(memory, bool)
    if not usable or not math.isfinite(memory) or memory <= 0:
        raise BitdialError(
            f"available_memory must be a number of GB above 0, got {memory!r}; leave it out to ask the device"
        )
    return parameters, where, float(memory)


def count_parameters(model: nn.Module) -> int:
    """Return the number of a model's parameters, shared ones once.

    Raises:
        BitdialError: it is no model, has no parameters, or some whose shapes are not known yet.
    """
    check_model(model)
    parameters = list(model.parameters())
    if any(isinstance(each, nn.parameter.UninitializedParameter) for each in parameters):
        raise BitdialError("model must know its shapes, got lazy layers without; run one batch through it first")
    total = sum(each.numel() for each in parameters)
    if not total:
        raise BitdialError(f"model must have parameters, got {type(model).__name__} without; pass a network")
    return total


def device_of(model: nn.Module, device: torch.device | str | None = None) -> torch.device:
    """Return the device that advice is about: the one given, else the model's.

    A model on the meta device has none yet: then the machine's GPU, or its processor.

    Raises:
        BitdialError: a device that this build of torch does not know, or a GPU that is not there.
    """
    found = parse_device(next(model.parameters()).device if device is None else device)
    if found.type == "meta":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= count:
            raise BitdialError(f"device must be one that is here, got {found} on a machine with {count} GPUs; use cpu")
    return found


def share_of_products(model: nn.Module, example_input: Any = None) -> float:
    """Return which share of a network's work, in [0, 1], is products and convolutions: what a narrow format speeds up.

    Args:
        model: any network; left as it is.
        example_input: as for `bitdial.cost`. With one, the share is ``macs / (macs + MACS_PER_VALUE * values)``: macs
            are the multiply-accumulates of linear and convolution layers, values what all other layers put out. Without
            one, it is the share of weights that belong to products, look-up tables left out.

    Raises:
        BitdialError: an example that the network cannot take.
    """
    if example_input is not None:
        return _share_of_work(model, example_input)
    look_ups = {p for each in model.modules() if isinstance(each, _LOOK_UPS) for p in each.parameters(recurse=False)}
    in_product: dict[Tensor, bool] = {}  # of a weight that several layers share, the first one says it
    for module in model.modules():
        for weight in {*module.parameters(recurse=False)} - look_ups:
            in_product.setdefault(weight, weight.dim() > 1 and not isinstance(module, _NORMS))
    total = sum(weight.numel() for weight in in_product)
    return sum(weight.numel() for weight, product in in_product.items() if product) / total if total else 0.0


def _share_of_work(model: nn.Module, example_input: Any) -> float:
    values = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal values
        values += output.numel() if isinstance(output, Tensor) else 0

    with ExitStack() as hooks:
        for leaf in (module for module in model.modules() if not any(module.children())):
            if not isinstance(leaf, (*KINDS, *_LOOK_UPS)):
                hooks.enter_context(leaf.register_forward_hook(count))
        try:
            macs = cost(model, example_input).macs
        except BitdialError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:  # as torch says it
            raise BitdialError(f"the network cannot take the example_input: {' '.join(str(error).split())}") from error
    *_, examples = arguments_of(example_input)
    return macs / (macs + MACS_PER_VALUE * values / examples)
