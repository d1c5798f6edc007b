"""A weight that came out of a packed file: on its grid for good."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers import QuantizedLayer


class StoredWeight(nn.Module):
    """The `weight_quantizer` of a layer whose weight lies on its grid already: gives the weight as it is, at any width.

    Whether the dial says 2 bits or 32, nothing finer is left to return to.
    """

    def forward(self, weight: Tensor, bits: Tensor) -> Tensor:
        """The weight itself."""
        return weight


def store(layer: QuantizedLayer, weight: Tensor) -> None:
    """Give a layer a weight from a packed file: a new parameter without gradient, in the layout of the old one."""
    old = layer.weight
    laid_out = torch.empty_like(old, requires_grad=False).copy_(weight)
    layer.weight = nn.Parameter(laid_out, requires_grad=False)
    if not isinstance(layer.weight_quantizer, StoredWeight):
        layer.weight_quantizer = StoredWeight()
        layer.register_load_state_dict_pre_hook(_refuse_other_weights)  # type: ignore[no-untyped-call]


def _refuse_other_weights(layer: QuantizedLayer, state: Any, prefix: str, *rest: Any) -> None:
    """Float weights would pass a stored layer unquantized, without a word."""
    given = state.get(f"{prefix}weight")
    if given is not None and not torch.equal(given.to(layer.weight.device), layer.weight):
        raise BitdialError(
            f'layer "{prefix.rstrip(".")}" holds weights from a packed file and must keep them, got others; '
            "load checkpoints into a freshly quantized model"
        )
