"""A network as files hold it: static grids of activations with a whole zero point, and weights as small whole numbers.

In training the grid of an activation reaches from the smallest to the largest value of a batch, wherever zero falls
between its values. A file needs one grid for all inputs, with zero on it (what pads a convolution is zero), so that
``x = scale * (code - zero_point)`` with whole numbers. `calibrated` makes a copy of a network that computes on such
grids; what a file computes is compared with it. `activation_grid` and `weight_codes` read a layer's whole numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers import QuantizedLayer
from bitdial.layers.names import check_model, unwrapped
from bitdial.layers.whole import half_steps
from bitdial.numerics import UNQUANTIZED
from bitdial.numerics.grid import min_max_numbers, track
from bitdial.numerics.learned_step import LearnedActivation
from bitdial.numerics.reference import level_count
from bitdial.trees import tensors

MOST_LEVELS = 2**16
"""Levels of the finest grid of activations that files have a type for."""

_MANTISSA = 24  # bits of a float32


@dataclass(frozen=True)
class ActivationGrid:
    """The values ``scale * (code - zero_point)`` of the codes 0 to ``levels - 1``.

    Attributes:
        scale: the step, a float32.
        zero_point: the code of 0.0; None where 0.0 is not on the grid: then the values are ``low + scale * code``.
        levels: number of values.
        low, high: the smallest and the largest value; inputs beyond are clipped.
    """

    scale: float
    zero_point: int | None
    levels: int
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class WeightCodes:
    """A weight as ``codes * scale``, which equals ``layer.quantized_weight()`` up to float rounding.

    Attributes:
        codes: int8 in the layout of the weight. A grid with an even number of levels and no value at zero has odd codes
            at half its step: -3, -1, 1 and 3 at 2 bits.
        scale: ``(out,)``, float32, above zero: of each output channel, also where all have the same.
        odd: whether all codes are odd, as said above.
    """

    codes: Tensor
    scale: Tensor
    odd: bool


def calibrated(model: nn.Module, batches: Iterable[Any] | None = None, *, limit: int | None = None) -> nn.Module:
    """A copy in evaluation mode whose quantized layers all have static grids with zero at a whole code.

    Ranges that training left are kept; layers without one get the average of the smallest and the largest value over
    the batches, as training would have it. Then every range is moved by less than a step so that 0.0 is on the grid,
    which two levels that reach to both sides of zero do not allow: those stay. Weights at 8 bits on a grid without zero
    (256 values from -max to max) take 255 values, which fit into a signed byte.

    Args:
        model: bare or wrapped; it stays as it is.
        batches: inputs; a tuple or list is taken for ``(input, ...)``. None: no layer must be without a range.
        limit: how many batches to use at most; all if None.

    Raises:
        BitdialError: a layer has no range and there are no batches, or none of them reaches it; an input, and so a
            range, is not finite; an argument is of another kind than said above.
    """
    check_model(model)
    made = copy.deepcopy(unwrapped(model)).eval()
    layers = {name: each for name, each in made.named_modules() if isinstance(each, QuantizedLayer)}
    missing = {name: layer for name, layer in layers.items() if _lacks_range(layer)}
    if missing:
        _observe(made, list(missing.values()), batches, limit)
    for name, layer in layers.items():
        if name in missing and _lacks_range(layer) and not layer.is_read:
            raise BitdialError(
                f'no calibration batch reaches layer "{name}", whose inputs have no range yet; expected batches that '
                "go through the whole network, or a network trained at these bits"
            )
        if has_running_range(layer):
            _nudge(name, layer)
        if level_count(layer.width("weight_bits")) == 256 and not layer._is_stored and not _fits_a_byte(layer):
            layer.turn({"weight_bits": math.log2(255)})
    return made


def activation_grid(layer: QuantizedLayer, call: int = 0) -> ActivationGrid | str | None:
    """The static grid of a layer's inputs; None where they are not quantized, or a sentence why there is no such grid.

    Args:
        layer: in evaluation mode, best out of `calibrated`.
        call: which call of a forward pass, for a layer with a range for each (`keep_ranges`).
    """
    width = layer.width("activation_bits")
    if width >= UNQUANTIZED:
        return None
    if layer.quantizer.rotates:
        return f"quantizer {layer.quantizer.name} rotates the input of a layer before it is rounded"
    count = level_count(width) if width <= 16 else MOST_LEVELS + 1
    if count > MOST_LEVELS:
        return f"inputs at {width:g} bits are finer than any type of a file; turn the dial to 16 or less, or to 32"
    learned = layer.activation_quantizer
    if isinstance(learned, LearnedActivation):
        return _learned_grid(learned, width, count)
    if learned is not None:
        return (
            f'activation quantizer {layer.activation.name} makes a new grid for every input; take "uniform", "lsq" or '
            '"pact"'
        )
    if layer.activation.range is None and not bool((layer.range_batches > 0).all()):
        return "its inputs have no range yet; give calibration batches"
    low, high = (float(end.reshape(-1)[call % layer.range_calls]) for end in (layer.range_low, layer.range_high))
    step = (high - low) / (count - 1)
    scale = torch.tensor(max(step, torch.finfo(torch.float32).tiny), dtype=torch.float32).item()
    zero = -low / scale
    whole = round(zero)
    on_grid = abs(zero - whole) <= max(1e-3, 1e-6 * count) and 0 <= whole < count
    return ActivationGrid(scale, whole if on_grid else None, count, low, high)


@torch.no_grad()
def weight_codes(layer: QuantizedLayer) -> WeightCodes | str:
    """The weight of a layer as whole numbers in a signed byte, or a sentence why it cannot be held so."""
    if layer._parameters.get("weight") is None:
        return "its weight is computed by a hook; make it permanent first"
    if layer.quantizer.rotates:
        return f"quantizer {layer.quantizer.name} rotates the weight after it is rounded"
    if layer.width("weight_bits") >= UNQUANTIZED and not layer._is_stored:
        return "its weight stands at 32 bits"
    if layer.group_size is not None and layer.scale_groups > len(layer.outputs_first(layer.weight)):
        return f'granularity {layer.granularity} has several steps in an output channel; take "channel" or "tensor"'
    found = half_steps(layer)
    if found is None:
        return f"weights of {layer.quantizer.name} are not whole numbers of one step in each output channel"
    rows, half = found
    odd = bool((rows % 2 != 0).any())
    codes, scale = (rows, half) if odd else (rows / 2, half * 2)
    if codes.numel() and (codes.min() < -128 or codes.max() > 127):
        ends = f"{codes.min():g} to {codes.max():g}"
        return f"its codes, {ends}, do not fit into a signed byte; turn the dial to 7 or less"
    scale = scale.flatten().expand(len(codes)) if scale.numel() == 1 else scale.flatten()
    return WeightCodes(layer.as_weight(codes.to(torch.int8)).contiguous(), scale.float().contiguous(), odd)


def has_running_range(layer: QuantizedLayer) -> bool:
    """Whether the grid of a layer's inputs follows from a range that was measured."""
    rounds = layer.width("activation_bits") < UNQUANTIZED
    return rounds and layer.activation_quantizer is None and layer.activation.range is None


def _lacks_range(layer: QuantizedLayer) -> bool:
    learned = layer.activation_quantizer
    if isinstance(learned, LearnedActivation):
        return layer.width("activation_bits") < UNQUANTIZED and not bool(learned.fitted)
    return has_running_range(layer) and not bool((layer.range_batches > 0).all())


def _observe(model: nn.Module, layers: list[QuantizedLayer], batches: Any, limit: int | None) -> None:
    """Let layers see the batches; those upstream clip to what they have seen so far, as they will in the end."""
    if batches is None:
        raise BitdialError(
            "calibration batches are needed: some layers have not seen any input yet; give some (64 to 512 examples "
            "of the training data), or train the network first"
        )
    if isinstance(batches, Tensor | str | bytes) or not isinstance(batches, Iterable):
        raise BitdialError(
            f"calibration batches must be an iterable of batches, got {type(batches).__name__}; pass a loader or a list"
        )
    hooks = [layer.register_forward_pre_hook(_see) for layer in layers if layer.activation_quantizer is None]
    learned = [layer.activation_quantizer for layer in layers if layer.activation_quantizer is not None]
    for module in learned:
        module.train()
    used = 0
    try:
        with torch.no_grad():
            for batch in batches:
                if limit is not None and used >= limit:
                    break
                model(batch[0] if isinstance(batch, (tuple, list)) else batch)
                used += 1
    finally:
        for hook in hooks:
            hook.remove()
        model.eval()
    if not used:
        raise BitdialError("calibration batches must be at least one, got none; give some of the training data")


def _see(layer: QuantizedLayer, inputs: tuple[Any, ...]) -> None:
    """Take an input into the running range of the call that comes."""
    x = next(tensors(inputs))
    if not x.numel():
        return
    low, high = min_max_numbers(x.detach().float().contiguous())
    call = layer._call
    ends = [part.reshape(-1)[call] for part in (layer.range_low, layer.range_high, layer.range_batches)]
    track(ends[0], ends[1], ends[2], low, high, layer.range_momentum)


def _nudge(name: str, layer: QuantizedLayer) -> None:
    """Move the ranges of a layer so that 0.0 is one of the values of its grid."""
    last = level_count(layer.width("activation_bits")) - 1
    lows, highs = layer.range_low.reshape(-1), layer.range_high.reshape(-1)
    for place, (low, high) in enumerate(zip(lows.tolist(), highs.tolist(), strict=True)):
        if not (math.isfinite(low) and math.isfinite(high)):
            raise BitdialError(
                f'inputs of layer "{name}" must be finite, got a range from {low} to {high}; check the network and the '
                "calibration batches"
            )
        if last == 1 and low < 0 < high:
            continue
        low, high = min(low, 0.0), max(high, 0.0)
        step = _short((high - low) / last, last)
        zero = min(max(round(-low / step), 0), last)
        lows[place], highs[place] = -zero * step, (last - zero) * step


def _short(step: float, last: int) -> float:
    """The step with so few digits that its multiples up to `last` are float32 numbers: the ends then say it exactly."""
    fraction, exponent = math.frexp(max(step, 2.0**-100))
    digits = max(_MANTISSA - last.bit_length(), 12)
    return math.ldexp(math.ceil(math.ldexp(fraction, digits)), exponent - digits)


def _fits_a_byte(layer: QuantizedLayer) -> bool:
    """Whether a weight at 8 bits is held in a signed byte as it is (LSQ's grid has zero on it), or no dial helps."""
    kind = layer.quantizer
    if kind.rotates or kind.fixed_bits is not None or kind.whole_bits is not None:
        return True
    return layer._parameters.get("weight") is None or not isinstance(weight_codes(layer), str)


def _learned_grid(learned: LearnedActivation, width: float, count: int) -> ActivationGrid | str:
    if not bool(learned.fitted):
        return "its inputs have no grid yet; give calibration batches"
    step, codes = learned.grid_at(width)
    if not math.isfinite(step):
        return f"the step of its inputs must be finite, got {step}; train it again"
    scale = max(step, torch.finfo(torch.float32).tiny)
    lowest, highest = float(codes.lowest), float(codes.highest)
    whole = float(lowest).is_integer()
    return ActivationGrid(scale, int(-lowest) if whole else None, count, lowest * scale, highest * scale)
