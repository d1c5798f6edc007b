"""What is being learned: the loss of a batch, and how a model is scored on it.

The loop knows nothing of images or classes. It asks a `Task` for a loss to minimise and hands it whatever the loader
yielded; language modelling, segmentation or compression are other tasks under the same loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitdial.errors import BitdialError
from bitdial.layers.names import evaluating

IGNORED = -100
"""The label, torch's own, of what counts in no loss and no score."""

Count: TypeAlias = int | Tensor
"""A whole number; as a 0-dim tensor where the host would have to wait for it."""


@dataclass(frozen=True, slots=True)
class TaskOutput:
    """What one forward pass of one batch gave.

    Attributes:
        loss: 0-dim tensor with a graph, the mean over what `Task.examples` counts in the batch.
        examples: how many examples (images, tokens, ...) the network computed, those that no mean is over among them.
        metrics: 0-dim detached tensors, each a mean over what the loss is a mean over, on the loss's device; the loop
            averages and logs them. No metric may force the host to wait for the device (`.item()`).
        ignored: true at rows of the logits that the loss leaves out, ``[N]``, None: none; distillation leaves them out.
    """

    loss: Tensor
    examples: int
    metrics: dict[str, Tensor] = field(default_factory=dict)
    ignored: Tensor | None = None


Scored = tuple[dict[str, Tensor], Count]
"""Sums over the predictions of a batch, by name, as 0-dim tensors; and how many predictions they are over.

A sum called ``confusion`` is a table, ``[K, K]``: predictions of each class (column) for examples of each class (row).
"""

CONFUSION = "confusion"
MOST_CLASSES = 20
"""Of more classes no table of confusions is kept."""


@runtime_checkable
class Task(Protocol):
    """What the loop, distillation and evaluation ask of the work at hand.

    `logits` and `loss_of` are separate so that distillation can reuse the student's forward pass.

    A task may have one method more, ``passes(batch) -> Sequence[item]``: the loop then goes forward and backward once
    for each item, in one optimizer step, and minimises the mean of their losses. `examples` and `loss` get such an item
    instead of a batch. What makes the passes differ (widths, one of several losses) belongs into the item, so that a
    pass that is done again for want of memory is the same pass.

    Where a task has ``checks = True``, a step whose loss or gradient is not finite is skipped and counted in float32
    too; the host then waits for the device in every step.
    """

    @property
    def metric(self) -> str:
        """The score that tells the best model."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether more of it is better."""
        ...

    def examples(self, batch: Any) -> Count:
        """Return how many things (images, tokens, ...) the loss of `batch`, or of a part of it, is a mean over.

        Weights the micro-batches of one optimizer step, the parts of a batch that is too large for the memory, and the
        steps in a mean of the log.
        """
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

    Labels are hard (whole numbers ``[B]`` of any dtype, bool too) or soft (probabilities ``[B, K]``, as CutMix and
    MixUp make them); a soft label counts as predicted right when the largest logit is at its largest probability. An
    example with the label -100 counts neither in a loss nor in a score; where no other is in a batch, its loss is 0.

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

    def examples(self, batch: Any) -> Count:
        """Return how many of the B labels count: those that are not -100."""
        labels = _pair(batch)[1]
        return _count(labels, _ignored(labels))

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
        labels = _labels(logits, batch)
        ignored = _ignored(labels)
        count = _count(labels, ignored)
        loss = _cross_entropy(logits, labels, "mean", self.label_smoothing)
        if isinstance(count, Tensor) or count == 0:
            loss = torch.where(torch.as_tensor(count, device=loss.device) > 0, loss, 0.0)
        with torch.no_grad():
            accuracy = _hits(logits, labels).count_nonzero() / _at_least_one(count)
        return TaskOutput(loss, int(labels.shape[0]), {"accuracy": accuracy}, ignored)

    @torch.no_grad()
    def score(self, model: nn.Module, batch: Any) -> Scored:
        """Sum cross-entropy (without label smoothing), right answers and confusions over the examples that count."""
        logits = self.logits(model, batch)
        labels = _labels(logits, batch)
        sums = {"loss": _cross_entropy(logits, labels, "sum", 0.0), "accuracy": _hits(logits, labels).sum()}
        if logits.shape[1] <= MOST_CLASSES:
            sums[CONFUSION] = _confusion(logits, labels)
        return sums, _count(labels, _ignored(labels))


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
        teacher: the network to learn from, on the student's device; best in evaluation mode, or it is put into it and
            back for every batch. Left as it is: what it shares with the student goes on training.
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
        self._modules = list(teacher.modules())
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
        distance = divergence(logits, taught, plain.ignored, self.temperature)
        loss = self.alpha * distance + (1.0 - self.alpha) * plain.loss
        parts = {"task_loss": plain.loss.detach(), "distillation_loss": distance.detach()}
        return TaskOutput(loss, plain.examples, {**plain.metrics, **parts}, plain.ignored)

    def loss(self, model: nn.Module, batch: Any) -> TaskOutput:
        """Run student and teacher on `batch` and return the mixed loss."""
        return self.loss_of(self.logits(model, batch), batch)

    @torch.no_grad()
    def teacher_logits(self, batch: Any) -> Tensor:
        """Return the teacher's predictions, shape ``[N, K]``; the random generators end where they began."""
        devices = [parameter.device for parameter in islice(self.teacher.parameters(), 1) if parameter.is_cuda]
        # A quantized teacher may round stochastically even in eval; the student's stream must not notice.
        awake = any(module.training for module in self._modules)
        with evaluating(self.teacher) if awake else nullcontext(), torch.random.fork_rng(devices=devices):
            return self.task.logits(self.teacher, batch)


def divergence(logits: Tensor, taught: Tensor, ignored: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Return how far predictions are from taught ones: ``T^2 * KL(softmax(t / T) || softmax(s / T))``, a mean.

    Args:
        logits: those of the student, ``[N, K]``.
        taught: those of the teacher, likewise.
        ignored: true at rows that are left out, ``[N]``; None: none.
        temperature: T.
    """
    student, taught, count = logits.float(), taught.float(), _at_least_one(logits.shape[0])
    if ignored is not None:  # made equal, and so at no distance
        student, taught = (each.masked_fill(ignored[:, None], 0.0) for each in (student, taught))
        count = _at_least_one(_count(logits, ignored))
    total = functional.kl_div(
        functional.log_softmax(student / temperature, dim=-1),
        functional.log_softmax(taught / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    return total / count * temperature**2


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Sequence) and len(batch) == 2:
        if isinstance(batch[1], Tensor):
            return batch[0], batch[1]
        raise BitdialError(f"the labels of a batch must be a tensor, got {type(batch[1]).__name__}; convert it")
    got = f"{len(batch)} parts" if isinstance(batch, Sequence) else type(batch).__name__
    raise BitdialError(f"a classification batch must be a pair (inputs, labels), got {got}")


def _labels(logits: Tensor, batch: Any) -> Tensor:
    """Return the labels of a batch, checked against the logits, whole numbers as int64."""
    labels = _pair(batch)[1]
    soft = labels.is_floating_point()
    if (labels.shape != logits.shape) if soft else (labels.shape != logits.shape[:1] or labels.is_complex()):
        raise BitdialError(
            f"labels must be classes of shape [{logits.shape[0]}] or probabilities of shape {list(logits.shape)}, "
            f"got {labels.dtype} of shape {list(labels.shape)}"
        )
    return labels if soft else labels.long()


def _cross_entropy(logits: Tensor, labels: Tensor, reduction: str, smoothing: float) -> Tensor:
    try:
        return functional.cross_entropy(
            logits, labels, reduction=reduction, label_smoothing=smoothing, ignore_index=IGNORED
        )
    except IndexError:  # the CPU kernel looks; a GPU kernel asserts on the device
        bad = labels[((labels < 0) | (labels >= logits.shape[1])) & (labels != IGNORED)]
        raise BitdialError(
            f"labels must be 0 or more and below the model's {logits.shape[1]} classes ({IGNORED} leaves an example "
            f"out), got a label of {int(bad[0])}; build the model with num_classes of the dataset"
        ) from None


def _ignored(labels: Tensor) -> Tensor | None:
    """Return where labels are left out, None where none is; a GPU is not asked, for the host would wait."""
    on_cpu, plain = labels.device.type == "cpu", labels.dtype == torch.int64
    if labels.is_floating_point() or (on_cpu and plain and (not labels.numel() or int(labels.min()) >= 0)):
        return None
    return labels == IGNORED


def _count(rows: Tensor, ignored: Tensor | None) -> Count:
    """Return how many rows are not ignored; known at once where the host need not wait for it."""
    if ignored is None:
        return int(rows.shape[0])
    count = (~ignored).sum()
    return int(count) if count.device.type == "cpu" else count


def _at_least_one(count: Count) -> Count:
    return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return a boolean ``[B]``: whether each row's largest logit is at its label."""
    return logits.argmax(dim=1) == (labels.argmax(dim=1) if labels.is_floating_point() else labels)


def _confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how often each class (column) was predicted for each class (row), int64 ``[K, K]``."""
    classes = logits.shape[1]
    true = labels.argmax(dim=1) if labels.is_floating_point() else labels
    counts = torch.zeros(classes**2, dtype=torch.int64, device=logits.device)
    place = true.clamp(min=0) * classes + logits.argmax(dim=1)
    return counts.index_add_(0, place, (true >= 0).long()).view(classes, classes)
