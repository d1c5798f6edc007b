"""Turning a model into one whose layers are quantized, in place, and saying what was left alone and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from bitdial.errors import BitdialError, suggest
from bitdial.layers.names import check_model, plain_names
from bitdial.layers.quantized import (
    ADDED,
    QuantConv1d,
    QuantConv2d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantizedLayer,
    QuantLinear,
)
from bitdial.layers.swapping import leave_fused_path, reason_to_leave, take_place

FIRST = "<first>"
LAST = "<last>"

KINDS: dict[type[Any], type[QuantizedLayer]] = {
    nn.Linear: QuantLinear,
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.ConvTranspose1d: QuantConvTranspose1d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
}
"""Layers that can be quantized -> what they become."""
KIND_NAMES = "Linear, Conv1d, Conv2d, ConvTranspose1d or ConvTranspose2d"
_PRODUCTS = re.compile(r"^(Lazy)?(Conv|Linear|Bilinear|Embedding|MultiheadAttention|RNN|LSTM|GRU)")
REPORT = "_bitdial_skipped"
"""Attribute of a model that went through `quantize`: what was left alone -> why."""


def match_layers(
    names: Sequence[str], pattern: str, kind: str = "a layer that can be quantized", *, model: nn.Module | None = None
) -> list[str]:
    """Those names that a pattern means: shell wildcards (``*.conv1``), or ``<first>`` and ``<last>``.

    A pattern also means everything inside the module that it names: ``layer1`` is ``layer1.0.conv1`` and so on. `kind`
    is what the names are names of, for the message; `model` may say in ``first_layers`` and ``last_layers`` which are
    its first and last.

    Raises:
        BitdialError: nothing matches; the message gives the nearest name.
    """
    if not isinstance(pattern, str):
        raise BitdialError(f'a layer pattern must be a text such as "layer1.*", got {pattern!r}; give the name')
    found = find_layers(names, pattern, model)
    if not found and pattern not in (FIRST, LAST):
        near = suggest(pattern, (*names, FIRST, LAST)) or f"; the layers are {', '.join(names) or '(none)'}"
        raise BitdialError(f"layer pattern must match {kind}, got {pattern!r}{near}")
    return found


def find_layers(names: Sequence[str], pattern: str, model: nn.Module | None = None) -> list[str]:
    """`match_layers` for those who have a message of their own: nothing matches, nothing is returned."""
    for end, attribute, place in ((FIRST, "first_layers", slice(1)), (LAST, "last_layers", slice(-1, None))):
        if pattern == end:
            return [name for name in getattr(model, attribute, ()) if name in names] or list(names[place])
    return [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]


def quantize(
    model: nn.Module,
    weights: float = 8,
    activations: float = 8,
    gradients: float | None = None,
    *,
    quantizer: str = "uniform",
    granularity: str | None = None,
    weight_quantizer: str | None = None,
    activation_quantizer: str | None = None,
    widths: Sequence[float] | None = None,
    nested: bool = False,
    skip: Sequence[str] = (FIRST, LAST),
) -> nn.Module:
    """Make the linear and convolution layers of a model quantized ones, in place.

    Layers and parameters stay the same objects, so that an optimizer, a state dict or a hook made before stays good.
    Only layers of exactly these classes are quantized: a subclass may compute something else. Where a module reads the
    weight of such a layer instead of calling it (Swin's attention, tied weights), it gets the quantized weight; what it
    multiplies it with stays in floating point.

    Args:
        model: any module.
        weights, activations: widths to begin with, in [1, 32]; turn them later with a `BitDial`.
        gradients: the same for the gradients that flow back (stochastic rounding). None builds layers without gradient
            quantization, which cannot be turned on later.
        quantizer: ``"uniform"`` or ``"dorefa"``; with something learned for each width ``"lsq"``, ``"pact"`` or
            ``"seq"``; ``"quest"`` or ``"quest_hadamard"``; for ternary weights ``"twn"`` (also called ``"ternary"``),
            ``"absmean"``, ``"ttq"`` or ``"ternary_lsq"``, whatever their width below 32, which then reads 1.585, and
            ``"binary"``, which reads 1. What is learned are new parameters: make the optimizer afterwards.
        granularity: one weight range per output ``"channel"``, one per ``"tensor"``, or one for each so many weights of
            a channel in a row, ``"group:64"`` (fewer where that does not divide a channel); None: the quantizer's own.
        weight_quantizer, activation_quantizer: another one for weights, or for activations, than `quantizer` says, such
            as ``weight_quantizer="twn", activation_quantizer="dorefa"``. For activations also ``"token"``: the range
            of each token (of each example in front of a convolution).
        widths: those for which `lsq`, `pact` and `seq` learn apart, None: 1, 1.585 and 2 to 8; other widths take what
            the nearest has learned.
        nested: grids whose codes at k bits are the top k bits of those at 8, so that one packed file serves every
            width. For ``"uniform"`` weights; widths are rounded down to whole numbers then.
        skip: names or patterns of layers to leave in floating point; ``<first>`` and ``<last>`` are the first and the
            last layer of the model in order of definition (usual practice, and the default). A model with several
            inputs names the first layer of each in an attribute ``first_layers``, one whose output does not come from
            what was defined last names its last ones in ``last_layers``. Where the model itself is one layer, that
            layer is always quantized.

    Returns:
        The model. `skipped_layers` tells what was left alone and why.

    Raises:
        BitdialError: a width, a quantizer or a pattern that does not exist; a model that is quantized already.

    Example:
        >>> import torch
        >>> import bitdial as bd
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 4))
        >>> net = bd.quantize(net, weights=4, activations=4)
        >>> net[1]
        QuantLinear(in_features=16, out_features=16, bias=True, uniform: weights=4, activations=4)
    """
    options: dict[str, Any] = {
        "weights": weights,
        "activations": activations,
        "gradients": gradients,
        "quantizer": quantizer,
        "granularity": granularity,
        "weight_quantizer": weight_quantizer,
        "activation_quantizer": activation_quantizer,
        "widths": widths,
        "nested": nested,
    }
    check_model(model)
    if widths is not None and (isinstance(widths, str) or not isinstance(widths, Sequence) or not widths):
        raise BitdialError(f"widths must be a list such as [2, 4, 8] with at least one, got {widths!r}")
    if isinstance(skip, str):
        skip = (skip,)
    if not isinstance(skip, Sequence):
        raise BitdialError(
            f'skip must be names or patterns such as ("<first>", "fc"), got {skip!r}; skip=() skips none'
        )
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        raise BitdialError(
            "model must be unquantized, got one with quantized layers; turn its widths with BitDial(model)"
        )
    QuantLinear(1, 1, **options)  # refuses bad options before anything is changed
    modules = dict(model.named_modules())
    skipped = reasons_against(modules)
    names = [name for name, module in modules.items() if type(module) in KINDS and name not in skipped]
    if not names:
        found = "; ".join(f"{name or 'the model'}: {reason}" for name, reason in skipped.items()) or "none"
        raise BitdialError(f"model must have {KIND_NAMES} layers, got {type(model).__name__} with {found}")
    for pattern in skip if names != [""] else ():
        for name in match_layers(names, pattern, model=model):
            skipped.setdefault(name, f"skipped as {pattern}")
    chosen = [name for name in names if name not in skipped]
    if not chosen:
        raise BitdialError(
            f"skip must leave a layer to quantize, got {list(skip)} which covers all {len(names)}; pass skip=()"
        )
    layers = [modules[name] for name in chosen]
    quantized = [KINDS[type(layer)].like(layer, **options) for layer in layers]  # all or, if one cannot be, none
    for new, layer in zip(quantized, layers, strict=True):
        take_place(new, layer)
    for module in modules.values():
        leave_fused_path(module)
    setattr(model, REPORT, {name: skipped[name] for name in modules if name in skipped})
    return model


def ranges_per_call(model: nn.Module, calls: Mapping[str, int]) -> nn.Module:
    """Give each call of a layer a running range of its own, where one forward pass calls it on inputs of unlike scale.

    For instance a head that is shared by the levels of a feature pyramid. Calls are told apart by their order: every
    forward pass of the model must call the layer exactly so many times. Ranges that were seen before are forgotten.
    Do the same to a model that a state or a packed file of this one is loaded into.

    Args:
        model: what `quantize` gave, bare or wrapped.
        calls: name or pattern of layers -> how many times a forward pass calls each, 1 or more.

    Returns:
        The model, changed in place.

    Raises:
        BitdialError: a pattern without a match, a number that is none, a layer whose range is fixed or learned, or
            a model without quantized layers.
    """
    check_model(model)
    if not isinstance(calls, Mapping):
        raise BitdialError(f'calls must be a mapping such as {{"head": 3}} from layers to numbers, got {calls!r}')
    layers = {name: m for name, m in plain_names(model).items() if isinstance(m, QuantizedLayer)}
    if not layers:
        raise BitdialError("model must have quantized layers, got none; call bitdial.quantize(model) first")
    chosen: dict[str, int] = {}
    for pattern, number in calls.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise BitdialError(f"calls of {pattern} must be a whole number of 1 or more, got {number!r}")
        chosen |= dict.fromkeys(match_layers(list(layers), pattern), number)
    for name in chosen:
        if layers[name].activation.range is not None or layers[name].activation_quantizer is not None:
            raise BitdialError(
                f'layer "{name}" must have a running range, got activation quantizer {layers[name].activation.name}, '
                "whose range is the same for every input; leave it out"
            )
    for name, number in chosen.items():
        layers[name].keep_ranges(number)
    return model


def skipped_layers(model: nn.Module) -> dict[str, str]:
    """Layers of a quantized model that were left in floating point: name -> reason.

    Args:
        model: what `quantize` gave, bare or wrapped; names are those before it was wrapped.

    Raises:
        BitdialError: the model did not go through `quantize`.
    """
    if isinstance(model, nn.Module):
        for module in model.modules():
            if REPORT in vars(module):
                return dict(vars(module)[REPORT])
    raise BitdialError(f"model must have gone through bitdial.quantize, got {type(model).__name__} that has not")


def reasons_against(modules: dict[str, nn.Module]) -> dict[str, str]:
    """Layers that compute products and cannot be quantized, each with the reason."""
    reasons = {}
    for name, module in modules.items():
        kind = type(module)
        if kind in KINDS:
            if reason := reason_to_leave(module, ADDED):
                reasons[name] = reason
        elif isinstance(module, LazyModuleMixin):
            reasons[name] = f"{kind.__name__} has no shape yet: run a batch through the model first"
        elif isinstance(module, tuple(KINDS)):
            reasons[name] = f"{kind.__name__} is a class of its own, whose computation may differ"
        elif _PRODUCTS.match(kind.__name__) and (module._parameters or not module._modules):  # no mere container
            reasons[name] = f"{kind.__name__} has no quantized form"
    return reasons
