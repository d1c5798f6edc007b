"""What the functions take that measure a model at many widths: widths, a device, a criterion, loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.numerics import check_bits
from bitdial.training.loader_state import LoaderState
from bitdial.training.seeding import preserved_random_state
from bitdial.training.tasks import Classification, Scored, Task

Criterion = Callable[[Tensor, Tensor], Tensor]
"""``(logits [B, K], targets) -> mean loss``, as the losses of `torch.nn` are."""


def check_options(options: Any, name: str = "bitwidth_options") -> list[float]:
    """Return widths to choose among, checked; a `BitdialError` where they are none."""
    if isinstance(options, (str, bytes)) or not isinstance(options, (Sequence, np.ndarray)) or not len(options):
        raise BitdialError(f"{name} must be a list of at least one width such as [2, 4, 8], got {options!r:.80}")
    return [check_bits(width.item() if isinstance(width, np.generic) else width, name) for width in options]


def check_device(model: nn.Module, device: Any) -> None:
    """Refuse, with a `BitdialError`, a device that there is not, or on which the model is not."""
    if device is None:
        return
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise BitdialError(f"device must be one that torch knows, such as 'cpu' or 'cuda:0', got {device!r}") from None
    tensor = next(model.parameters(), None)
    if tensor is None:
        return
    own = tensor.device
    if own.type != wanted.type or (wanted.index is not None and wanted.index != (own.index or 0)):
        raise BitdialError(
            f"device must be where the model is, {own}, got {wanted}; call model.to({str(wanted)!r}) first"
        )


def task_for(loss_fn: Criterion | None, task: Task | None) -> Task:
    """Return how batches are scored where a criterion or a task is given, or neither; both are a `BitdialError`."""
    if task is not None and not all(callable(getattr(task, part, None)) for part in ("logits", "score")):
        raise BitdialError(f"task must be a task with logits and score, got {task!r:.60}; see bitdial.training.Task")
    if loss_fn is None:
        return task or Classification()
    if task is not None:
        raise BitdialError("give loss_fn or task, got both; a task brings its own loss, so leave loss_fn=None")
    if not callable(loss_fn):
        raise BitdialError(
            f"loss_fn must be callable, (logits, targets) -> mean loss, got {loss_fn!r:.60}; "
            "pass for instance torch.nn.CrossEntropyLoss()"
        )
    return _WithCriterion(loss_fn)


class _WithCriterion(Classification):
    """Classification whose loss is what a criterion says."""

    def __init__(self, criterion: Criterion) -> None:
        super().__init__()
        self.criterion = criterion

    @torch.no_grad()
    def score(self, model: nn.Module, batch: Any) -> Scored:
        """Sum the criterion's loss and right answers over the examples that count."""
        logits = self.logits(model, batch)
        sums, count = super().score(cast(nn.Module, lambda _: logits), batch)
        mean = self.criterion(logits, batch[1])
        if not isinstance(mean, Tensor) or mean.ndim:
            got = f"shape {list(mean.shape)}" if isinstance(mean, Tensor) else type(mean).__name__
            raise BitdialError(f'loss_fn must return a mean, a 0-dim tensor, got {got}; use reduction="mean"')
        counts = torch.as_tensor(count, device=mean.device)
        return {**sums, "loss": torch.where(counts > 0, mean.float() * counts, 0.0)}, count


@contextmanager
def nothing_drawn(seed: int, *loaders: Iterable[Any] | None) -> Iterator[None]:
    """Seed what loaders draw from, and put every random state, that of the loaders included, back at the end."""
    memories = [LoaderState(loader) for loader in loaders if loader is not None]
    kept = [memory.state_dict() for memory in memories]
    with preserved_random_state():
        # torch.manual_seed would queue a seed for devices that are not in use yet
        torch.default_generator.manual_seed(seed % 2**63)
        try:
            yield
        finally:
            for memory, state in zip(memories, kept, strict=True):
                memory.load_state_dict(state)
