"""Learning from a teacher's soft predictions as well as from the labels."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitdial.errors import BitdialError
from bitdial.training.tasks import Task, TaskOutput


class Distillation:
    """A task whose loss is mixed with the distance to a teacher's predictions.

    With student logits s, teacher logits t, temperature T and the wrapped task's own loss L:

        ``alpha * T^2 * KL(softmax(t / T) || softmax(s / T)) + (1 - alpha) * L``

    The factor T^2 keeps the gradient of the first part of the same size whatever T is.
    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015 (arXiv 1503.02531), section 2.

    The teacher runs in evaluation mode, without gradients, and draws no random numbers from the run's generators, so
    that a run with alpha 0 is the run without a teacher, bit for bit.

    Args:
        task: what the student learns; gives the logits of both networks.
        teacher: the network to learn from, on the student's device. Left as it is, but for being put in `eval()`.
        alpha: weight of the teacher, in [0, 1].
        temperature: T > 0.

    Raises:
        BitdialError: alpha or temperature out of range, or teacher and student with different numbers of classes.
    """

    def __init__(self, task: Task, teacher: nn.Module, alpha: float = 0.5, temperature: float = 4.0) -> None:
        if not 0.0 <= alpha <= 1.0:
            raise BitdialError(f"distillation alpha must be in [0, 1], got {alpha}; 0 ignores the teacher")
        if not 0.0 < temperature < float("inf"):
            raise BitdialError(f"distillation temperature must be above 0, got {temperature}; 1 to 8 is usual")
        self.task = task
        self.teacher = teacher
        self.alpha = alpha
        self.temperature = temperature
        # all but the loss is the wrapped task's, of the student alone
        self.metric, self.higher_is_better = task.metric, task.higher_is_better
        self.examples, self.logits, self.score = task.examples, task.logits, task.score

    def loss_of(self, logits: Tensor, batch: Any) -> TaskOutput:
        """Return the mixed loss; metrics are the task's, with `task_loss` and `distillation_loss` beside them."""
        plain = self.task.loss_of(logits, batch)
        taught = self.teacher_logits(batch)
        if taught.shape != logits.shape:
            raise BitdialError(
                f"teacher and student must predict the same classes, got logits of shape {list(taught.shape)} and "
                f"{list(logits.shape)}; build both models with the same num_classes"
            )
        divergence = functional.kl_div(
            functional.log_softmax(logits.float() / self.temperature, dim=-1),
            functional.log_softmax(taught.float() / self.temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        distance = divergence * self.temperature**2
        loss = self.alpha * distance + (1.0 - self.alpha) * plain.loss
        parts = {"task_loss": plain.loss.detach(), "distillation_loss": distance.detach()}
        return TaskOutput(loss, plain.examples, {**plain.metrics, **parts})

    def loss(self, model: nn.Module, batch: Any) -> TaskOutput:
        """Run student and teacher on `batch` and return the mixed loss."""
        return self.loss_of(self.logits(model, batch), batch)

    @torch.no_grad()
    def teacher_logits(self, batch: Any) -> Tensor:
        """Return the teacher's predictions, shape ``[N, K]``; the random generators end where they began."""
        if self.teacher.training:
            self.teacher.eval()
        devices = [parameter.device for parameter in islice(self.teacher.parameters(), 1) if parameter.is_cuda]
        # A quantized teacher may round stochastically even in eval; the student's stream must not notice.
        with torch.random.fork_rng(devices=devices):
            return self.task.logits(self.teacher, batch)
