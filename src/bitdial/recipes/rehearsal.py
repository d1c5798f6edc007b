"""Finding now what would only be found when training starts, or hours later."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.recipes.devices import check_layers
from bitdial.recipes.states import Foreign
from bitdial.training import Distillation, LoopConfig, Setup, Task, TrainingState
from bitdial.training.batches import length_of
from bitdial.training.foreign_scores import adapted
from bitdial.trees import map_tensors, tensors


class Rehearsed(Exception):  # noqa: N818  (nothing went wrong)
    """The rehearsal is over; carries the state of the file that the run is to begin with."""

    def __init__(self, foreign: Foreign | None) -> None:
        super().__init__()
        self.foreign = foreign


@dataclass(frozen=True)
class Rehearsal(Setup):
    """A `Setup` in which training is tried out on two examples and ends with `Rehearsed`; nothing is written.

    Attributes:
        file: a checkpoint of no run that training is to begin with, or None.
        foreign: its state, once it was read.
    """

    file: Path | None = None
    foreign: Foreign | None = None

    def fit(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        task: Task,
        loader: Iterable[Any],
        config: LoopConfig,
        **more: Any,
    ) -> TrainingState:
        """Check everything that training will need.

        Raises:
            BitdialError: there is no batch, the network cannot train on it, or a state does not fit.
            Rehearsed: nothing is wrong.
        """
        foreign = None
        if self.file is not None:
            batches = length_of(loader) or 1
            foreign = Foreign.read(self.file, -(-batches // config.gradient_accumulation_steps))
            foreign.check(model, optimizer, self.file)
            adapted(foreign.state, config.monitor, more.get("early_stopping"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is worth a warning is said when training starts
            see_two(model, loader, task)
        if self.fabric is not None and self.precision is not None:
            check_layers(model, self.precision, self.fabric, optimizer)
        raise Rehearsed(foreign)


def see_two(model: nn.Module, batches: Iterable[Any], task: Task) -> None:
    """Let a new network see two examples of its data.

    Raises:
        BitdialError: there is no batch, or the network cannot train on it.
    """
    batch = next(iter(batches), None)
    if batch is None:
        raise BitdialError("loader must give at least one batch, got none; is the training split empty?")
    plain = task.task if isinstance(task, Distillation) else task  # the teacher may be on a device already
    batch = map_tensors(lambda tensor: tensor[:2], batch)
    first = next(tensors(batch), None)
    passes = getattr(plain, "passes", None)
    try:
        for each in passes(batch) if passes else [batch]:
            plain.loss(model if first is None else model.to(first.device), each)
    except BitdialError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:  # as torch says it
        shape = [] if first is None else list(first.shape)
        raise BitdialError(f"the network cannot train on inputs of shape {shape}: {error}") from error
