"""What is being learned: the loss of a batch, and how a model is scored on it.

The loop knows nothing of images or classes. It asks a `Task` for a loss to minimise and hands it whatever the loader
yielded; language modelling, segmentation or compression are other tasks under the same loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitdial.errors import BitdialError


@dataclass(frozen=True, slots=True)
class TaskOutput:
    """What one forward pass of one batch gave.

    Attributes:
        loss: 0-dim tensor with a graph, the mean over the batch's examples.
        examples: how many examples (images, tokens, ...) the mean is over.
        metrics: 0-dim detached tensors, each a mean over the batch, on the loss's device; the loop averages and logs
            them. No metric may force the host to wait for the device (`.item()`).
    """

    loss: Tensor
    examples: int
    metrics: dict[str, Tensor] = field(default_factory=dict)


Scored = tuple[dict[str, Tensor], int]
"""Sums over the predictions of a batch, by name, as 0-dim tensors; and how many predictions they are over."""


@runtime_checkable
class Task(Protocol):
    """What the loop, distillation and evaluation ask of the work at hand.

    `logits` and `loss_of` are separate so that distillation can reuse the student's forward pass.

    A task may have one method more, ``passes(batch) -> Sequence[item]``: the loop then goes forward and backward once
    for each item, in one optimizer step, and minimises the mean of their losses. `examples` and `loss` get such an item
    instead of a batch. What makes the passes differ (widths, one of several losses) belongs into the item, so that a
    pass that is done again for want of memory is the same pass.
    """

    @property
    def metric(self) -> str:
        """The score that tells the best model."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether more of it is better."""
        ...

    def examples(self, batch: Any) -> int:
        """Return how many examples `batch` holds; weights the micro-batches of one optimizer step."""
        ...

    def logits(self, model: nn.Module, batch: Any) -> Tensor:
        """Run `model` on `batch`; return its predictions, shape ``[N, K]``, one row per prediction that counts."""
        ...

    def loss_of(self, logits: Tensor, batch: Any) -> TaskOutput:
        """Return the loss and metrics of the predictions that `logits` gave for `batch`."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> TaskOutput:
        """Run `model` on `batch` and return the loss to minimise."""
        return self.loss_of(self.logits(model, batch), batch)

    def score(self, model: nn.Module, batch: Any) -> Scored:
        """Score `batch` without a graph; among the sums are ``loss`` and that of `metric`."""
        ...


class Classification(Task):
    """One label for each input: batches ``(x, y)``, a model ``x -> logits [B, K]``.

    Args:
        label_smoothing: share of each target that is spread evenly over the classes, in [0, 1). Training loss only:
            scores are plain cross-entropy, so that runs with different smoothing compare.

    Labels are hard (integers ``[B]``) or soft (probabilities ``[B, K]``, as CutMix and MixUp make them); a soft label
    counts as predicted right when the largest logit is at its largest probability.

    Raises:
        BitdialError: `label_smoothing` out of range, a batch that is not a pair, or labels that do not fit the logits.
    """

    metric = "accuracy"
    higher_is_better = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise BitdialError(
                f"label_smoothing must be in [0, 1), got {label_smoothing}; use 0 for none, .1 is common"
            )
        self.label_smoothing = label_smoothing

    def examples(self, batch: Any) -> int:
        """Return B."""
        return int(_pair(batch)[1].shape[0])

    def logits(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the model's logits, ``[B, K]`` (taken from ``.logits`` where the model returns a record)."""
        output = model(_pair(batch)[0])
        logits: Tensor = output if isinstance(output, Tensor) else getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
            raise BitdialError(f"a classification model must return logits of shape [batch, classes], got {got}")
        return logits

    def loss_of(self, logits: Tensor, batch: Any) -> TaskOutput:
        """Return the mean cross-entropy (with label smoothing) and the batch's accuracy."""
        labels = _pair(batch)[1]
        loss = self._cross_entropy(logits, labels, "mean", self.label_smoothing)
        with torch.no_grad():
            accuracy = _hits(logits, labels).float().mean()
        return TaskOutput(loss, int(labels.shape[0]), {"accuracy": accuracy})

    @torch.no_grad()
    def score(self, model: nn.Module, batch: Any) -> Scored:
        """Sum cross-entropy (without label smoothing) and right answers over the B examples."""
        logits, labels = self.logits(model, batch), _pair(batch)[1]
        sums = {"loss": self._cross_entropy(logits, labels, "sum", 0.0), "accuracy": _hits(logits, labels).sum()}
        return sums, int(labels.shape[0])

    @staticmethod
    def _cross_entropy(logits: Tensor, labels: Tensor, reduction: str, smoothing: float) -> Tensor:
        soft = labels.is_floating_point()
        if labels.shape[0] != logits.shape[0] or (labels.shape != logits.shape if soft else labels.ndim != 1):
            raise BitdialError(
                f"labels must be classes of shape [{logits.shape[0]}] or probabilities of shape {list(logits.shape)}, "
                f"got {labels.dtype} of shape {list(labels.shape)}"
            )
        try:
            return functional.cross_entropy(logits, labels, reduction=reduction, label_smoothing=smoothing)
        except IndexError:  # the CPU kernel looks; a GPU kernel asserts on the device
            raise BitdialError(
                f"labels must be below the model's {logits.shape[1]} classes, got a label of {int(labels.max())}; "
                "build the model with num_classes of the dataset"
            ) from None


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


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Sequence) and len(batch) == 2:
        return batch[0], batch[1]
    got = f"{len(batch)} parts" if isinstance(batch, Sequence) else type(batch).__name__
    raise BitdialError(f"a classification batch must be a pair (inputs, labels), got {got}")


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return a boolean ``[B]``: whether each row's largest logit is at its label."""
    return logits.argmax(dim=1) == (labels.argmax(dim=1) if labels.is_floating_point() else labels)
