"""float8 linear layers: torchao's, put where they can be, with the reason for each layer that stays as it is.

Weights stay float32; a float8 layer scales and rounds both operands of its three products (output, gradient of the
input, gradient of the weight) to eight bits on the way into the matrix unit, and gives its output in bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from bitdial.errors import BitdialError, suggest
from bitdial.layers import QuantizedLayer
from bitdial.layers.convert import match_layers
from bitdial.layers.names import check_model, plain_names
from bitdial.layers.swapping import leave_fused_path, reason_to_leave, take_place
from bitdial.training.step.formats import FLOAT8, check_device, check_torchao
from bitdial.training.step.policy_layers import is_covered, is_float8_layer

Recipe = Literal["tensorwise", "rowwise"]
"""How values are scaled into float8's range: one scale per tensor (faster), or one per row (more exact)."""

_ADDED = ("config", "linear_mm_config", "scaling_type_input", "scaling_type_weight", "scaling_type_grad_output")
"""What torchao's layer has that a float one has not."""

_DIVISOR = 16  # what the hardware's float8 products need of both dimensions of a weight


@dataclass(frozen=True)
class Float8Conversion:
    """What `convert_to_float8` did, layer by layer.

    Attributes:
        converted: names of the layers that now compute in float8, in the model's order.
        skipped: the linear layers that were left alone: name -> reason.
    """

    converted: tuple[str, ...]
    skipped: dict[str, str]


def convert_to_float8(
    model: nn.Module,
    *,
    recipe: Recipe = "tensorwise",
    skip: str | Sequence[str] = (),
    emulate: bool = False,
    device: torch.device | None = None,
) -> Float8Conversion:
    """Make the linear layers of a model float8 ones, in place; layers, parameters, hooks and names stay the same.

    Only layers of exactly the class `torch.nn.Linear` are converted, and only where both dimensions divide by 16. First
    and last layers are usually kept out: ``skip=("<first>", "<last>")``. Move the model to its device before. On a GPU
    the rows of a batch (samples, or samples x tokens) must divide by 16 too: the weight's gradient sums over them.

    Args:
        model: any module that contains the layers; bare, or wrapped.
        recipe: ``"tensorwise"`` or ``"rowwise"``, torchao's names.
        skip: names or patterns of linear layers to leave alone, as in `bitdial.quantize`.
        emulate: compute the products in wider numbers after rounding to float8: the same values on any device, slowly.
        device: where the model will compute; where it is if None.

    Raises:
        BitdialError: no torchao; a device that cannot compute in float8 (without `emulate`); a recipe or pattern that
            does not exist; a model without a layer to convert, or that has precision policies.
    """
    check_model(model)
    modules = plain_names(model)
    if recipe not in get_args(Recipe):
        known = ", ".join(get_args(Recipe))
        raise BitdialError(f"recipe must be one of {known}, got {recipe!r}{suggest(str(recipe), get_args(Recipe))}")
    if not isinstance(emulate, bool):
        raise BitdialError(f"emulate must be True or False, got {emulate!r}")
    patterns = (skip,) if isinstance(skip, str) else skip
    if not isinstance(patterns, Sequence):
        raise BitdialError(f'skip must be names or patterns such as ("<first>", "head"), got {skip!r}')
    check_torchao()
    if any(is_covered(module) for module in modules.values()):
        raise BitdialError("model must have no policies yet; remove them, convert, and apply them again")
    # Conv1D is GPT-2's linear layer, transposed.
    linears = [name for name, m in modules.items() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]
    skipped = {name: reason for name in linears if (reason := _reason_against(modules[name]))}
    for pattern in patterns:
        for name in match_layers(linears, pattern, "a linear layer"):
            skipped.setdefault(name, f"skipped as {pattern}")
    skipped = {name: skipped[name] for name in linears if name in skipped}
    converted = tuple(name for name in linears if name not in skipped)
    if not converted:
        found = "; ".join(f"{name or 'the model'}: {reason}" for name, reason in skipped.items()) or "none"
        raise BitdialError(f"model must have a linear layer that can compute in float8, got {found}")
    if not emulate:
        there = {parameter.device for name in converted for parameter in modules[name].parameters()}
        for place in there if device is None else {device}:
            check_device(FLOAT8, place)
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = replace(Float8LinearConfig.from_recipe_name(recipe), emulate=emulate)
    layers = [modules[name] for name in converted]
    swapped = [convert_to_float8_training(layer, config=config) for layer in layers]  # a lone layer comes back, swapped
    for new, layer in zip(swapped, layers, strict=True):
        assert new is not layer
        take_place(new, layer)
    for module in modules.values():
        leave_fused_path(module)
    return Float8Conversion(converted, skipped)


def _reason_against(module: nn.Module) -> str | None:
    if isinstance(module, QuantizedLayer):
        return f"{type(module).__name__} is quantized to a grid of its own"
    if is_float8_layer(module):
        return "it is a float8 layer already"
    if isinstance(module, LazyModuleMixin):
        return f"{type(module).__name__} has no shape yet: run a batch through the model first"
    if type(module) is not nn.Linear:
        return f"{type(module).__name__} is a class of its own, whose computation may differ"
    if reason := reason_to_leave(module, _ADDED):
        return reason
    if any(size % _DIVISOR or size == 0 for size in module.weight.shape):
        return f"its weight is {module.out_features} x {module.in_features}; both must divide by {_DIVISOR}"
    if not module.weight.is_floating_point() or module.weight.dtype == torch.float64:
        return f"its weight is {str(module.weight.dtype).removeprefix('torch.')}; float8 starts from float32 or less"
    return None
