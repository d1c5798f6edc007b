"""Evaluating in the middle of training without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from bitdial.errors import BitdialError, suggest
from bitdial.layers.names import evaluating
from bitdial.training.seeding import preserved_random_state

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Evaluate = Callable[[nn.Module], Mapping[str, float]]


def scores_of(evaluate: Evaluate, model: nn.Module, fabric: Fabric) -> dict[str, float]:
    """Return what `evaluate` says of `model`, in eval mode without gradients; generators and modes end as they were.

    With several processes all evaluate, and all get rank 0's scores, so that they decide alike.
    """
    with torch.no_grad(), preserved_random_state(), evaluating(model):
        scores = {name: float(score) for name, score in evaluate(model).items()}
    return fabric.broadcast(scores) if fabric.world_size > 1 else scores


def monitored(scores: Mapping[str, float], name: str) -> float:
    """Return the score called `name`.

    Raises:
        BitdialError: there is none.
    """
    if name not in scores:
        known = ", ".join(scores) or "none"
        raise BitdialError(
            f"monitor must name a score of the evaluation ({known}), got {name!r}{suggest(name, scores)}"
        )
    return scores[name]
