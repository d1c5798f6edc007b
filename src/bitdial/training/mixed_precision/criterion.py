"""What a user's criterion averages over: known for torch's own losses, found out by trying for any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitdial.errors import BitdialError
from bitdial.training.step.memory import batch_size, is_out_of_memory, joined
from bitdial.training.tasks import Count

Criterion = Callable[[Any, Any], Tensor]

_OF_CLASSES: tuple[Any, ...] = (nn.CrossEntropyLoss, nn.NLLLoss, functional.cross_entropy, functional.nll_loss)
_ROUNDING = 1e-4
"""Difference of two losses, as a share of them, that may come from the order of sums."""


def counts_labels(criterion: Criterion) -> bool:
    """Whether it is one of torch's own whose mean is over labels that count, and the weights of their classes."""
    return any(type(criterion) is known or criterion is known for known in _OF_CLASSES)


def is_sum(criterion: Criterion) -> bool:
    """Whether a criterion says that it is a sum over the batch."""
    return getattr(criterion, "reduction", "mean") == "sum"


def loss_of(criterion: Criterion, output: Any, target: Any) -> Tensor:
    """Return what a criterion says of an output; whole numbers go to torch's own losses of classes as int64.

    Raises:
        BitdialError: it cannot compare the two.
    """
    whole = isinstance(target, Tensor) and not (target.is_floating_point() or target.is_complex())
    known = counts_labels(criterion)
    try:
        return criterion(output, target.long() if known and whole else target)
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        odd = whole and target.dtype != torch.int64  # what torch's losses take for no class
        if is_out_of_memory(error) or not (known or odd):
            raise
        said = " ".join(str(error).split())[:160]
        raise BitdialError(
            f"the criterion cannot compare an output of {_form(output)} with a target of {_form(target)} ({said}); "
            "classes must be whole numbers of int64, from 0 up and fewer than the output's"
        ) from error


def counted(batch: tuple[Any, Any, Criterion]) -> Count | float:
    """Return what the criterion's mean over a batch ``(data, target, criterion)`` is over: its rows, unless known."""
    _, target, criterion = batch
    if not counts_labels(criterion) or not isinstance(target, Tensor) or target.is_floating_point():
        return batch_size(batch)
    counts = target != getattr(criterion, "ignore_index", -100)
    weight = getattr(criterion, "weight", None)
    total = counts.sum() if weight is None else (weight[target.long() * counts] * counts).sum()
    return total.item() if total.device.type == "cpu" else total


def check_parts(batch: tuple[Any, Any, Criterion], outputs: Sequence[Any], loss: Tensor) -> None:
    """Refuse to put a batch together from parts whose losses are not a loss of the whole.

    Args:
        batch: data, target and criterion of the whole.
        outputs: the model's, of the parts.
        loss: the mean of the parts' losses, weighted by `counted`.

    Raises:
        BitdialError: the criterion gives another one for the whole.
    """
    _, target, criterion = batch
    told = "the parts' outputs cannot be put together"
    output = joined(outputs)
    if output is not None:
        whole = criterion(output, target)
        near = max(_ROUNDING, 4 * torch.finfo(whole.dtype).eps)
        if torch.allclose(whole.float(), loss.float(), rtol=near, atol=near, equal_nan=True):
            return
        told = f"the criterion gives {float(whole):.6g} for the batch and {float(loss):.6g} as the mean over its parts"
    raise BitdialError(
        "out of memory, and the step cannot be repeated in parts: the loss must be a mean over rows of the output, but "
        f"{told} (does it leave out labels, or compare examples?); lower the batch size, or take torch's own "
        "CrossEntropyLoss, or a sum with criterion.reduction = 'sum'"
    )


def _form(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
