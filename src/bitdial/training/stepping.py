"""One optimizer step: forward and backward over its micro-batches, clip, step.

All that mixed precision must take over (scaling, skipping, retrying) is in `OptimizerStep`; the loop only asks what
came of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bitdial.training.optimizers import scaled_learning_rate
from bitdial.training.tasks import Task, TaskOutput

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one optimizer step.

    Attributes:
        output: of the last micro-batch.
        tensors: 0-dim detached tensors: ``loss``, ``gradient_norm`` where it was clipped, and the task's metrics, all
            averaged over the micro-batches by their numbers of examples.
        applied: False where a loss scaler skipped the step.
    """

    output: TaskOutput
    tensors: dict[str, Tensor]
    applied: bool


class OptimizerStep:
    """Do optimizer steps on a model that Fabric has set up.

    With several micro-batches, each loss is weighted by its share of the step's examples, so that the gradient is that
    of one batch of all of them, whatever their sizes. (Processes count alike, as DistributedDataParallel has it.)
    """

    def __init__(
        self, fabric: Fabric, model: nn.Module, optimizer: Any, task: Task, max_grad_norm: float | None = None
    ) -> None:
        self.fabric = fabric
        self.model = model
        self.optimizer = optimizer
        self.task = task
        self.max_grad_norm = max_grad_norm
        self._plain_optimizer: Optimizer = optimizer.optimizer
        self._scaler: Any = getattr(fabric.strategy.precision, "scaler", None)
        self._moves = fabric.device.type != "cpu"

    @property
    def has_scaler(self) -> bool:
        """Whether steps may be skipped for gradients that overflowed."""
        return self._scaler is not None

    def __call__(self, batches: list[Any], lr_scale: float = 1.0) -> StepResult:
        """Step on `batches`, the micro-batches of one step, at `lr_scale` times the scheduled learning rate."""
        counts = [self.task.examples(batch) for batch in batches] if len(batches) > 1 else [1]
        total, last = sum(counts), len(batches) - 1
        tensors: dict[str, Tensor] = {}
        for index, (batch, count) in enumerate(zip(batches, counts, strict=True)):
            output = self._backward(batch, count / total, sync=index == last)
            self._collect(tensors, output, count / total)
        if self.max_grad_norm is not None:
            norm = self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.max_grad_norm, error_if_nonfinite=False
            )
            assert norm is not None
            tensors["gradient_norm"] = norm.detach()
        applied = self._step(lr_scale)
        self.optimizer.zero_grad()
        return StepResult(output, tensors, applied)

    def _backward(self, batch: Any, share: float, *, sync: bool) -> TaskOutput:
        if self._moves:
            batch = self.fabric.to_device(batch)
        if sync:
            output = self.task.loss(self.model, batch)
            self.fabric.backward(output.loss if share == 1.0 else output.loss * share)
            return output
        with self.fabric.no_backward_sync(self.model):  # type: ignore[arg-type]
            output = self.task.loss(self.model, batch)
            self.fabric.backward(output.loss * share)
        return output

    def _step(self, lr_scale: float) -> bool:
        """Step the optimizer; return whether it was applied."""
        with scaled_learning_rate(self._plain_optimizer, lr_scale):
            if self._scaler is None:
                self.optimizer.step()
                return True
            before = self._scaler.get_scale()
            self.optimizer.step()  # a scaler does not say whether it skipped, but it backs off when it did
            return bool(0.0 < before <= self._scaler.get_scale())

    @staticmethod
    @torch.no_grad()
    def _collect(tensors: dict[str, Tensor], output: TaskOutput, share: float) -> None:
        for name, value in (("loss", output.loss.detach()), *output.metrics.items()):
            weighted = value if share == 1.0 else value * share
            tensors[name] = weighted if name not in tensors else tensors[name] + weighted
