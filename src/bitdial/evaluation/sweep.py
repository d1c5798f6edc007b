"""Accuracy as a function of bits: the same model, measured at one width after the other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.evaluation.results import WidthScore
from bitdial.evaluation.table import width_table
from bitdial.layers import BitDial, reestimate_batch_norm
from bitdial.layers.names import evaluating, modes_kept
from bitdial.layers.widths import held_widths
from bitdial.terminal import as_html, as_text
from bitdial.training.batches import length_of, to_device
from bitdial.training.passes import expecting, one_more
from bitdial.training.tasks import CONFUSION, Classification, Task

RECALIBRATION_LIMIT = 32
"""How many batches statistics are re-estimated from, unless told otherwise."""


class Scores(list[WidthScore]):
    """Scores at several widths: a list, which stands as a table at a prompt and in a notebook."""

    def __repr__(self) -> str:
        """The table as text."""
        return as_text(lambda console: console.print(width_table(self))) if self else "[]"

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        return as_html(lambda console: console.print(width_table(self)))


def sweep(
    model: nn.Module,
    loader: Iterable[Any],
    bits: Sequence[float | Sequence[float]] = (2, 3, 4, 8),
    *,
    reestimate: bool = True,
    recalibration_batches: Iterable[Any] | None = None,
    recalibration_limit: int | None = RECALIBRATION_LIMIT,
    task: Task | None = None,
    perplexity: bool = False,
) -> list[WidthScore]:
    """Return accuracy and loss of `model` at each width of weights and activations.

    Batch-norm statistics (and activation ranges) belong to a width: those of 8 bits are wrong at 2. They are therefore
    re-estimated at each width before it is scored. The model comes back exactly as it was: parameters, buffers, widths,
    the mode of every module, and the state of torch's random numbers.

    Args:
        model: A model that went through ``bitdial.quantize``.
        loader: Batches to score; iterated once or twice for each width, so not a generator.
        bits: Widths in [1, 32]; an entry that is a list gives one width to each quantized layer.
        reestimate: Whether to re-estimate the statistics; without, they stay as they are.
        recalibration_batches: Training batches to re-estimate from. When left out, the inputs of `loader` are used
            (never their labels): good for a quick look, but give training batches for a number that you publish.
        recalibration_limit: How many batches to re-estimate from at most; None for all.
        task: How a batch is scored; ``Classification`` of ``(x, y)`` batches when left out.
        perplexity: Whether to add exp(loss), for text.

    Returns:
        One score for each entry of `bits`, in its order.

    Raises:
        BitdialError: no widths, a width out of range, no batches, a loader that can be iterated only once, or a model
            without quantized layers.

    Example:
        >>> import torch
        >>> import bitdial as bd
        >>> net = bd.quantize(torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(4)]))
        >>> batches = [(torch.randn(16, 8), torch.randint(8, (16,))) for _ in range(2)]
        >>> [score.bits for score in bd.sweep(net, batches, bits=[2, 4, 8])]
        [2.0, 4.0, 8.0]
    """
    if not bits:
        raise BitdialError("bits must name at least one width, got none; give for instance bits=(2, 4, 8)")
    batches = loader if recalibration_batches is None else recalibration_batches
    for name, given in (("loader", loader), ("recalibration_batches", batches)):
        check_batches(name, given)
        if isinstance(given, Iterator):
            raise BitdialError(f"{name} must give its batches again for each width, got an iterator; pass list({name})")
    how = task or Classification()
    dial = BitDial(model)
    device = _device(model)

    def calibrate(network: nn.Module, batch: Any) -> Tensor:
        logits = how.logits(network, to_device(batch, device))
        one_more()
        return logits

    scores = Scores()
    estimated, scored = length_of(batches), length_of(loader)
    if estimated is not None:
        estimated = min(estimated, recalibration_limit or estimated) if reestimate else 0
    with expecting(None if estimated is None or scored is None else len(bits) * (estimated + scored)):
        for width in bits:
            with unchanged(model), dial.held(width):
                if reestimate:
                    reestimate_batch_norm(model, batches, limit=recalibration_limit, forward=calibrate)
                tables: dict[str, Tensor] = {}
                metrics = evaluate(model, loader, task=how, tables=tables)
                loss, accuracy = metrics.pop("loss"), metrics.pop("accuracy", math.nan)
            mean = statistics.fmean(width) if isinstance(width, Sequence) else float(width)
            scores.append(
                WidthScore(
                    bits=mean,
                    accuracy=accuracy,
                    loss=loss,
                    perplexity=_exp(loss) if perplexity else None,
                    metrics=metrics,
                    confusion=tables[CONFUSION].tolist() if CONFUSION in tables else [],
                )
            )
    return scores


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    task: Task | None = None,
    tables: dict[str, Tensor] | None = None,
) -> dict[str, float]:
    """Return what `task` scores of `model` at the widths it has now: means over all predictions, by name.

    The model is put in evaluation mode for it, and every module back in its own.

    Args:
        model: Any model that `task` can score.
        loader: Batches; each is weighted with its number of predictions, so a short last batch counts for less.
        task: How a batch is scored; ``Classification`` when left out.
        tables: Takes the sums that are tables, such as ``confusion``.

    Raises:
        BitdialError: the loader gave no predictions, or the task scores in another form.
    """
    check_batches("loader", loader)
    how = task or Classification()
    device = _device(model)
    totals: dict[str, Tensor] = {}
    count: int | Tensor = 0
    with evaluating(model), expecting(length_of(loader)):
        for batch in loader:
            found, size = _scored(how.score(model, to_device(batch, device)))
            sums = {name: value for name, value in found.items() if name != CONFUSION}
            if tables is not None and CONFUSION in found:
                tables[CONFUSION] = tables.get(CONFUSION, 0) + found[CONFUSION]
            if totals and sums.keys() != totals.keys():
                first, later = ", ".join(totals), ", ".join(sums)
                raise BitdialError(f"a task must score the same in every batch, got {first} and then {later}")
            # Summed where they are: asking for a number each batch would make the host wait for the device.
            for name, value in sums.items():
                total = totals.setdefault(name, torch.zeros((), dtype=torch.float64, device=_widest(device)))
                total += value.detach().to(total)
            count = count + size
            one_more()
    count = int(count)
    if count == 0:
        raise BitdialError("loader must give at least one batch to score, got none; is the split empty?")
    return {name: total.item() / count for name, total in totals.items()}


def check_batches(name: str, given: Any) -> None:
    """Refuse with a `BitdialError` what holds no batches: a number, a text, a tensor."""
    if isinstance(given, (Tensor, str, bytes)) or not isinstance(given, Iterable):
        raise BitdialError(
            f"{name} must be an iterable of batches, got {type(given).__name__}; pass a loader or a list of batches"
        )


def _scored(given: Any) -> tuple[Mapping[str, Tensor], int | Tensor]:
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Mapping):
        sums, count = given
        named = "loss" in sums and all(isinstance(name, str) for name in sums)
        summed = all(
            isinstance(value, Tensor) and value.ndim == 2 * (name == CONFUSION) for name, value in sums.items()
        )
        whole = isinstance(count, Tensor) and count.ndim == 0 and not count.is_floating_point()
        if named and summed and (whole or (isinstance(count, int) and count >= 0)):
            return sums, count
    raise BitdialError(
        "a task's score must return sums by name and their count, ({'loss': ..., 'accuracy': ...}, n), where sums are "
        f"0-dim tensors, loss is one of them, and n is a whole number; got {given!r:.80}"
    )


def evaluate_loss_accuracy(model: nn.Module, loader: Iterable[Any], *, task: Task | None = None) -> tuple[float, float]:
    """Return mean loss (nats) and accuracy (fraction) of `model` at the widths it has now; see `evaluate`.

    The accuracy is NaN where the task has none.
    """
    scores = evaluate(model, loader, task=task)
    return scores["loss"], scores.get("accuracy", math.nan)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put back every buffer, width and module's mode, and torch's random state, at the end of a ``with`` block.

    Buffers and widths are written in place, so that compiled graphs and other holders of the tensors see them restored.
    """
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in (*module._buffers.items(), *held_widths(module).items())
        if buffer is not None
    ]
    device = _device(model)
    with modes_kept(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    setattr(module, name, buffer.copy_(value))


def _device(model: nn.Module) -> torch.device:
    tensor = next(model.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _widest(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device  # MPS has no float64


def _exp(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
