"""How weights move across their grid: the share of zeros, and of weights that changed sign, in each quantized layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers import QuantizedLayer
from bitdial.layers.names import plain_names
from bitdial.numerics import pack_trits, packed_length, unpack_trits
from bitdial.training.hooks import Hook
from bitdial.training.sharding import whole_weights

if TYPE_CHECKING:
    from bitdial.training.state import TrainingState


class WeightStatistics(Hook):
    """Log ``zeros/LAYER`` and ``flips/LAYER`` with every row of the log, in ``layers.csv``, as shares from 0 to 1.

    Zeros are the quantized weights that are exactly 0 now. Flips are those whose sign (-1, 0 or 1, which of a ternary
    weight is all there is) differs from what it was at the last row, or at the first step for the first row; a weight
    that went and came back in between is none. Rows that come thicker show more of the movement.

    Costs nothing between rows. A row costs one quantization of every weight, and memory one byte a weight; a checkpoint
    holds 1.6 bits a weight, so that a resumed run counts the same flips as one that was never stopped.

    Where weights are in shards (strategy "fsdp"), a row gathers them for the moment.

    Args:
        latent: count flips of the latent weights, those that the optimizer moves, and no zeros. For layers whose width
            changes: a narrower grid takes weights to 0 and a wider one brings them back, though none has moved.
    """

    per_layer = True

    def __init__(self, *, latent: bool = False) -> None:
        self.latent = latent
        self._signs: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor] | None = None  # packed, until the model is there

    def before_step(self, state: TrainingState) -> None:
        """At the first step, remember where the weights are."""
        if not self._signs:
            self._signs = self._now(state.model) if self._loaded is None else self._restored(_layers(state.model))

    def metrics(self, state: TrainingState) -> dict[str, float]:
        """Zeros and flips of each layer, in the model's order: first all zeros, then all flips."""
        now = self._now(state.model)
        before = self._signs or now
        self._signs = now
        counts = [torch.stack([(s == 0).sum(), (s != before[name]).sum()]) for name, s in now.items()]
        zeros, flips = torch.stack(counts).T.tolist()  # one wait for the device
        return {
            f"{what}/{name}": count / max(signs.numel(), 1)
            for what, numbers in (*(() if self.latent else (("zeros", zeros),)), ("flips", flips))
            for (name, signs), count in zip(now.items(), numbers, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """The signs at the last row, five a byte."""
        if not self._signs:
            return {} if self._loaded is None else {"signs": dict(self._loaded)}
        return {"signs": {name: pack_trits(signs).cpu() for name, signs in self._signs.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count the next flips from where the saved run stood."""
        signs = state.get("signs") if isinstance(state, Mapping) else None
        if not isinstance(signs, Mapping) or not all(isinstance(packed, Tensor) for packed in signs.values()):
            raise BitdialError(
                "the state of WeightStatistics must hold the signs of each layer, got another; "
                "resume with the hooks that the run was started with"
            )
        self._signs = {}
        self._loaded = dict(signs)

    @torch.no_grad()
    def _now(self, model: nn.Module) -> dict[str, Tensor]:
        """The sign of every weight."""
        with whole_weights(model):
            return {
                name: (layer.weight if self.latent else layer.quantized_weight()).sign().to(torch.int8)
                for name, layer in _layers(model).items()
            }

    def _restored(self, layers: dict[str, QuantizedLayer]) -> dict[str, Tensor]:
        """The loaded signs, unpacked for the layers of this model."""
        packed, self._loaded = self._loaded or {}, None
        sizes = {name: packed_length(layer.weight.numel()) for name, layer in layers.items()}
        if {name: signs.numel() for name, signs in packed.items()} != sizes:
            raise BitdialError(
                f"the state of WeightStatistics must be of a model with the layers {', '.join(layers)}, "
                f"got {', '.join(packed) or 'none'}, or other sizes; resume with the model that it came from"
            )
        weights = {name: layer.weight for name, layer in layers.items()}
        return {name: unpack_trits(packed[name], tuple(w.shape)).to(w.device) for name, w in weights.items()}


def _layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    layers = {name: m for name, m in plain_names(model).items() if isinstance(m, QuantizedLayer)}
    if not layers:
        raise BitdialError(
            "WeightStatistics needs a model with quantized layers, got none; call bitdial.quantize(model) first"
        )
    return layers
