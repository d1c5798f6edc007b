"""One optimizer step of the loop: its micro-batches through forward and backward, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.training.optimizers import scaled_learning_rate
from bitdial.training.sharding import is_sharded, whole
from bitdial.training.step.micro_batches import Hold, MicroBatches
from bitdial.training.tasks import Task, TaskOutput

if TYPE_CHECKING:
    from bitdial.training.state import TrainingState


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one optimizer step.

    Attributes:
        output: of the last micro-batch.
        tensors: 0-dim detached tensors: ``loss``, ``gradient_norm`` where it was clipped, and the task's metrics, all
            averaged over the micro-batches by their numbers of examples. Empty for a step that was lost.
        applied: False where loss or gradients were not finite, so that the weights did not move.
        batches: the step's micro-batches, as the loader gave them.
        passes: how many times each went forward and backward.
    """

    output: TaskOutput
    tensors: dict[str, Tensor]
    applied: bool
    batches: Sequence[Any]
    passes: int = 1


class OptimizerStep:
    """Do optimizer steps on the model of a run, which Fabric wraps here for several processes.

    With several micro-batches, each loss is weighted by its share of the step's examples, so that the gradient is that
    of one batch of all of them, whatever their sizes. (Processes count alike, as DistributedDataParallel has it.)

    A run that is to compute in float32 takes every step as it comes: nothing waits for the device, and a loss that is
    not finite is found when a row of the log is due. In any other format every step is looked at.
    """

    def __init__(self, state: TrainingState, task: Task) -> None:
        fabric, plain, optimizer = state.fabric, state.model, state.optimizer
        self.fabric = fabric
        self.task = task
        self.control = state.control
        self._passes: Callable[[Any], Sequence[Any]] | None = getattr(task, "passes", None)
        self._plain_optimizer = optimizer
        self._moves = fabric.device.type != "cpu"
        model: nn.Module = plain
        hold: Hold = nullcontext
        if is_sharded(fabric):  # gradients of every micro-batch go to their shards: whole ones would be held else
            self.optimizer: Any = fabric.setup_optimizers(optimizer)
        else:
            wrapped, self.optimizer = fabric.setup(plain, optimizer)
            model, hold = wrapped, partial(fabric.no_backward_sync, wrapped)
        self._micro = MicroBatches(
            self.control,
            model,
            plain,
            optimizer,
            task.loss,
            backward=fabric.backward,
            hold=hold,
            checks=self.checks,
        )

    @property
    def checks(self) -> bool:
        """Whether every step is looked at before it is applied."""
        return self.control.config.format != torch.float32 or self.control.config.needs_scale

    def __call__(self, batches: list[Any], lr_scale: float = 1.0) -> StepResult:
        """Step on `batches`, the micro-batches of one step, at `lr_scale` times the scheduled learning rate.

        Raises:
            TrainingDiverged: one step too many was lost.
            BitdialError: memory ran out, even with the batches in parts.
        """
        given = batches
        if self._passes is not None:
            moved = [self.fabric.to_device(batch) if self._moves else batch for batch in batches]
            batches = [item for batch in moved for item in self._passes(batch)]
            if not batches:
                raise BitdialError("a task's passes must give at least one item for each batch, got none")
        counts = [self.task.examples(batch) for batch in batches] if len(batches) > 1 else [1]
        total, last = sum(counts), len(batches) - 1
        tensors: dict[str, Tensor] = {}
        try:
            for index, (batch, count) in enumerate(zip(batches, counts, strict=True)):
                if self._moves and self._passes is None:
                    batch = self.fabric.to_device(batch)
                output = self._micro.add(batch, count / total, last=index == last)
                self._collect(tensors, output, count / total)
            with scaled_learning_rate(self._plain_optimizer, lr_scale):
                applied, norm = self._micro.apply(self.optimizer.step, self.control.config.max_grad_norm)
        finally:
            self._micro.clear()
        if norm is not None:
            tensors["gradient_norm"] = whole(norm.detach())
        return StepResult(output, tensors if applied else {}, applied, given, len(batches) // len(given))

    @staticmethod
    @torch.no_grad()
    def _collect(tensors: dict[str, Tensor], output: TaskOutput, share: float) -> None:
        for name, value in (("loss", output.loss), *output.metrics.items()):
            weighted = value if share == 1.0 else value * share
            tensors[name] = weighted if name not in tensors else tensors[name] + weighted
