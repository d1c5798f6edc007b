"""Decoders that compute in whole numbers: entropy parameters and pixels are equal bit for bit on any machine.

Between the convolutions (`bitdial.layers.whole`) the networks of this room have nothing but operations that take one
element at a time, and sums in which all numbers but one are zero. Attention is not of that kind.
"""

from __future__ import annotations

from itertools import chain

from torch import Tensor, nn

from bitdial.compression.models import HPCM, CompressionModel, FactorizedPrior, MeanScaleHyperprior, ScaleHyperprior
from bitdial.compression.models.blocks import PartialConv, Residual, Transform, WindowAttention
from bitdial.compression.models.hpcm import Prior
from bitdial.errors import BitdialError
from bitdial.layers import QuantizedLayer
from bitdial.layers.whole import WholeProduct, whole_product

_ENCODER = ("g_a", "h_a")
_EXACT = (
    *(HPCM, FactorizedPrior, MeanScaleHyperprior, ScaleHyperprior, PartialConv, Prior, Residual, Transform),
    *(nn.Identity, nn.LeakyReLU, nn.ModuleList, nn.ParameterList, nn.ReLU, nn.Sequential),
)
"""What computes, beside its layers, element by element."""


def decode_in_whole_numbers(model: CompressionModel) -> dict[str, Tensor]:
    """Have the decoder's side of a network in evaluation compute in whole numbers, in place: all of it, or nothing.

    Returns:
        All that it then computes with, by name: what files are to name it by.

    Raises:
        BitdialError: a part of it cannot; the message names it and says what to do.
    """
    modules = {name: each for name, each in model.named_modules() if name.split(".")[0] not in _ENCODER}
    layers = [each for each in modules.values() if isinstance(each, QuantizedLayer)]
    within = {part for layer in layers for part in layer.modules()} - {*layers}  # what makes their weights
    decoder = {name: each for name, each in modules.items() if each not in within}
    products: dict[str, WholeProduct] = {}
    reasons: dict[str, list[str]] = {}
    refused: list[str] = []
    for name, module in decoder.items():
        found = whole_product(module) if isinstance(module, QuantizedLayer) else _reason(module)
        if isinstance(found, WholeProduct):
            products[name] = found
        elif found and not any(name.startswith(f"{above}.") for above in refused):
            refused.append(name)
            reasons.setdefault(found, []).append(name or "the network")
    if reasons:
        told = (
            f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {reason}"
            for reason, names in reasons.items()
        )
        raise BitdialError(f"the decoder's side must compute in whole numbers throughout, got {'; '.join(told)}")
    state = {f"{name}.{part}": value for name, each in products.items() for part, value in each.state().items()}
    for name, module in decoder.items():
        if name not in products:
            kept = chain(module.named_parameters(name, recurse=False), module.named_buffers(name, recurse=False))
            state |= {key: value.detach().double() for key, value in kept}
    for product in products.values():
        product.take_place()
    return state


def _reason(module: nn.Module) -> str | None:
    """Why a module that is no quantized layer cannot be part of it."""
    if type(module) in _EXACT:
        return None
    if isinstance(module, WindowAttention):
        return "a softmax has sums that depend on their order; train HPCM(attention=False)"
    if "weight" in module._parameters:
        return 'it stands in floating point; call bitdial.quantize(model, skip=("<first>",))'
    return f'{type(module).__name__} is not known to take one element at a time; take arithmetic="float64" for it'
