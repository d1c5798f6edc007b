"""Evaluating in the middle of training without leaving a trace in it, and stopping when scores no longer improve."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.layers.names import evaluating
from bitdial.training.options import EarlyStoppingOptions
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


class EarlyStopping:
    """Count evaluations without improvement; ask for a stop after `patience` of them in a row.

    A score must be better than the best by more than `min_delta` to count as an improvement, and finite; larger is
    better in mode "max" (accuracy), smaller in mode "min" (loss). An argument out of its range is a `BitdialError`.
    """

    def __init__(self, patience: int = 40, min_delta: float = 0.0, mode: Literal["max", "min"] = "max") -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise BitdialError(f"early stopping patience must be a whole number of at least 1, got {patience!r}")
        if not 0.0 <= min_delta < math.inf:
            raise BitdialError(f"early stopping min_delta must be 0 or more, got {min_delta}")
        if mode not in ("max", "min"):
            raise BitdialError(f"early stopping mode must be 'max' or 'min', got {mode!r}")
        self.patience = patience
        self.min_delta = min_delta
        self.mode = mode
        self.counter = 0
        self.best_score: float | None = None

    @classmethod
    def of(cls, options: EarlyStoppingOptions, mode: Literal["max", "min"], held_out: object) -> EarlyStopping | None:
        """What options ask for, or None.

        Raises:
            BitdialError: it is asked for, and nothing is held out: `held_out` is None.
        """
        if not options.early_stopping:
            return None
        if held_out is None:
            raise BitdialError(
                "early_stopping goes by data held out of training, expected data of which a part can be, got batches "
                "of a script; give an ImageDataset (see bitdial.data.dataset_from_tensors), or leave early_stopping out"
            )
        return cls(options.early_stopping_patience, options.early_stopping_min_delta, mode)

    @property
    def should_stop(self) -> bool:
        """Whether patience is used up."""
        return self.counter >= self.patience

    def update(self, score: float) -> bool:
        """Take the score of one evaluation; return `should_stop`."""
        gain = math.inf
        if self.best_score is not None:
            gain = score - self.best_score if self.mode == "max" else self.best_score - score
        self.counter += 1
        if math.isfinite(score) and gain > self.min_delta:
            self.best_score, self.counter = score, 0
        return self.should_stop

    def state_dict(self) -> dict[str, Any]:
        """Return ``{counter, best_score, patience}``, the last for who reads the file."""
        return {"counter": self.counter, "best_score": self.best_score, "patience": self.patience}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; the patience is what it was made with now."""
        self.counter = int(state["counter"])
        best = state["best_score"]
        self.best_score = None if best is None else float(best)
