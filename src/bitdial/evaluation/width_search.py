"""Mixed widths under a budget: which layers can be narrow at the least cost, and whether that beats a single width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from bitdial.errors import BitdialError, suggest
from bitdial.evaluation.arguments import Criterion, check_device, check_options, nothing_drawn, task_for
from bitdial.evaluation.equal_cost import ledger_of
from bitdial.evaluation.knapsack import best_choice, falling
from bitdial.evaluation.results import Accuracy, Interval, Measured, Record, WidthScore
from bitdial.evaluation.sensitivity import loss_rise, one_at_a_time
from bitdial.evaluation.statistics import paired_difference
from bitdial.evaluation.sweep import RECALIBRATION_LIMIT, check_batches, sweep
from bitdial.evaluation.wording import bits, engineering, points, span
from bitdial.layers import BitDial, Ledger
from bitdial.training.tasks import Scored, Task

MEASURES = ("size", "bitops")


class WidthChoice(Record):
    """A width for each quantized layer, what it costs, and how good the model is there."""

    model_config = ConfigDict(frozen=True)

    widths: tuple[float, ...]
    """The width of each layer, in bits, in the model's order."""
    average_bits: float
    """Their mean, every layer counting alike."""
    cost: float
    """Bytes of the packed model, or simulated BitOps of a forward pass for one example."""
    accuracy: Accuracy
    """Fraction of right answers on the batches that the widths were chosen by."""
    loss: Measured
    """Mean loss on them."""


class MixedWidths(Record):
    """What a search for mixed widths found."""

    model_config = ConfigDict(frozen=True)

    layers: tuple[str, ...]
    """The quantized layers, in the model's order."""
    measure: Literal["size", "bitops"]
    """What the budget is of."""
    budget: float
    """The budget, in bytes or BitOps."""
    mixed: WidthChoice
    """The widths that were found."""
    uniform: WidthChoice
    """The best single width for all layers within the budget."""
    difference: Interval | None
    """Accuracy of the mixed widths minus that of the single width, with its interval over the batches; null for a task
    without accuracy."""
    sentence: str
    """Which of the two to ship, and by how much it is better."""

    @property
    def mixed_is_better(self) -> bool:
        """Whether mixed widths are more accurate than chance explains; by the loss where there is no accuracy.

        One batch has no interval: the difference is then taken as it is.
        """
        if self.difference is None:
            return self.mixed.loss < self.uniform.loss
        return self.difference.mean > 0 and (self.difference.low is None or self.difference.low > 0)

    @property
    def chosen(self) -> WidthChoice:
        """Mixed widths where they are better, else the single one.

        ``BitDial(model).set(list(found.chosen.widths))`` turns a model there.
        """
        return self.mixed if self.mixed_is_better else self.uniform


def search_widths(
    model: nn.Module,
    loader: Iterable[Any],
    loss_fn: Criterion | None = None,
    device: torch.device | str | None = None,
    *,
    budget: float,
    measure: Literal["size", "bitops"] = "size",
    options: Sequence[float] = (2, 4, 8),
    ledger: Ledger | None = None,
    task: Task | None = None,
    reestimate: bool = True,
    recalibration_batches: Iterable[Any] | None = None,
    recalibration_limit: int | None = RECALIBRATION_LIMIT,
) -> MixedWidths:
    """Choose a width for each layer under a budget, and compare them with the best single width under the same one.

    The rise r(l, b) in loss is measured with layer l alone at b and all others at the widest option, taken for 0 where
    it is negative and for at least that of any wider option, and

        minimise ``sum over l of r(l, b_l)``  subject to  ``sum over l of cost(l, b_l) <= budget``

    is solved by dynamic programming over the choices that no other choice beats in cost and rise at once (a
    multiple-choice knapsack; exact while there are at most `knapsack.FRONT` of them). Of equal sums the one that uses
    more of the budget is taken, as a rise of 0 is more often noise than the truth. That rises add up is an assumption,
    so both results are scored, and the sentence says when mixed widths do not win, or by no more than chance explains:
    their difference comes with a 95% Student t interval over the batches, so that some ten batches tell more than two.
    With L layers and K options that takes (K - 1) L + K + 1 scores.

    Args:
        model, loss_fn, device, task, reestimate, recalibration_batches, recalibration_limit: as in
            `validate_random_bitwidths`.
        loader: held-out batches to choose by. Never test batches: the scores of what was chosen by them are optimistic.
        budget: bytes of the packed model (``"size"``: `Ledger.size_bytes`, weights at their widths and everything else
            in float32), or simulated BitOps of a forward pass for one example (``"bitops"``: `Ledger.step_bitops`).
        measure: which of the two.
        options: the widths to choose from, of weights and activations.
        ledger: what `bitdial.layers.cost` gave for this model; None: taken with the first example of `loader`.

    Raises:
        BitdialError: as in `validate_random_bitwidths`; a budget that is not a number above 0, or below the cost of the
            narrowest option; a ledger of another model.
    """
    if measure not in MEASURES:
        raise BitdialError(f"measure must be one of size, bitops, got {measure!r}{suggest(str(measure), MEASURES)}")
    if isinstance(budget, bool) or not isinstance(budget, Real) or not float(budget) > 0:
        unit = "bytes" if measure == "size" else "BitOps"
        raise BitdialError(f"budget must be a number of {unit} above 0, got {budget!r:.40}")
    widths = sorted(set(check_options(options, "options")))
    how, names = _PerBatch(task_for(loss_fn, task)), BitDial(model).names
    check_device(model, device)
    check_batches("loader", loader)
    count, highest = len(names), widths[-1]
    with nothing_drawn(0, loader, recalibration_batches):
        book = ledger_for(model, loader) if ledger is None else ledger
        if not isinstance(book, Ledger) or tuple(row.name for row in book.rows if row.quantized) != names:
            raise BitdialError(
                "ledger must be that of this model, bitdial.layers.cost(model, example_input), with an example that "
                "reaches every quantized layer"
            )

        def cost(choice: Sequence[float]) -> float:
            return float(book.size_bytes(choice) if measure == "size" else book.step_bitops(choice, choice).forward)

        def score(configurations: Sequence[Sequence[float]]) -> list[WidthScore]:
            return sweep(
                model,
                loader,
                configurations,
                reestimate=reestimate,
                recalibration_batches=recalibration_batches,
                recalibration_limit=recalibration_limit,
                task=how,
            )

        least = cost([widths[0]] * count)
        if budget < least:
            raise BitdialError(
                f"budget must be at least {_amount(least, measure)}, what all layers at {bits(widths[0])} take, got "
                f"{_amount(budget, measure)}; raise it, or add a narrower option"
            )
        fitting = [width for width in widths if cost([width] * count) <= budget]
        uniform = dict(zip(widths, score([[width] * count for width in widths]), strict=True))
        by_batch = dict(zip(widths, how.of(len(widths)), strict=True))
        costs, rises = np.empty((count, len(widths))), np.zeros((count, len(widths)))
        for column, width in enumerate(widths):
            alone = one_at_a_time(count, width, widths[0])
            costs[:, column] = [cost(one) - least for one in alone]
            if width != highest:
                scores = score(one_at_a_time(count, width, highest))
                how.of(count)
                rises[:, column] = [loss_rise(uniform[highest], one) for one in scores]
        unspent = 1e-9 * (costs.max(axis=1, keepdims=True) - costs) / max(costs.max(), 1.0)
        found = [widths[column] for column in best_choice(costs, falling(rises) + unspent, float(budget) - least)]
        (mixed,) = score([found])
        mixed_by_batch = how.of(1)[0]
    best = max(fitting, key=lambda width: _goodness(uniform[width]))
    both = [
        WidthChoice(
            widths=tuple(choice),
            average_bits=sum(choice) / count,
            cost=cost(choice),
            accuracy=got.accuracy,
            loss=got.loss,
        )
        for choice, got in ((found, mixed), ([best] * count, uniform[best]))
    ]
    record = MixedWidths(
        layers=names,
        measure=measure,
        budget=float(budget),
        mixed=both[0],
        uniform=both[1],
        difference=paired_difference(mixed_by_batch, by_batch[best]) if mixed_by_batch else None,
        sentence="",
    )
    return record.model_copy(update={"sentence": _sentence(record)})


class _PerBatch:
    """A task that remembers the accuracy of each batch that it scored."""

    def __init__(self, task: Task) -> None:
        self.task, self.logits = task, task.logits
        self._accuracies: list[Tensor] = []

    def score(self, model: nn.Module, batch: Any) -> Scored:
        """Score a batch as the task does."""
        sums, count = self.task.score(model, batch)
        if "accuracy" in sums and count:
            self._accuracies.append(sums["accuracy"] / count)
        return sums, count

    def of(self, configurations: int) -> list[list[float]]:
        """Return the accuracies of as many of the last configurations, by batch."""
        values = [float(value) for value in self._accuracies]
        self._accuracies = []
        each = len(values) // configurations
        return [values[number * each : (number + 1) * each] for number in range(configurations)]


def ledger_for(model: nn.Module, loader: Iterable[Any]) -> Ledger:
    """Return the ledger that the first batch of a loader gives; refused where that is no tensor of inputs."""
    first = next(iter(loader), None)
    inputs = first[0] if isinstance(first, (tuple, list)) and first else first
    if first is not None and not isinstance(inputs, Tensor):
        raise BitdialError(
            f"ledger must be given where a batch does not begin with a tensor of inputs, got {type(inputs).__name__}; "
            "pass ledger=bitdial.layers.cost(model, example_input)"
        )
    return ledger_of(model, [] if first is None else [first])


def _goodness(score: WidthScore) -> tuple[float, float]:
    accuracy = -1.0 if math.isnan(score.accuracy) else score.accuracy
    return accuracy, -math.inf if math.isnan(score.loss) else -score.loss


def _amount(cost: float, measure: str) -> str:
    return f"{cost:,.0f} bytes" if measure == "size" else f"{engineering(cost)} BitOps"


def _sentence(found: MixedWidths) -> str:
    mixed, uniform = found.mixed, found.uniform
    one = f"uniform {bits(uniform.widths[0])}"
    costs = f"{_amount(mixed.cost, found.measure)} against {_amount(uniform.cost, found.measure)}"
    if mixed.widths == uniform.widths:
        return f"The search found nothing better under this budget than {one} ({_amount(uniform.cost, found.measure)})."
    gap = found.difference
    if gap is None:
        by = f"loss {mixed.loss:.4f} against {uniform.loss:.4f}"
    else:
        over = f", 95% interval over {gap.n} batches {span(gap)}" if gap.low is not None else ", one batch: no interval"
        by = f"{points(mixed.accuracy - uniform.accuracy, digits=2)} points{over}"
    if found.mixed_is_better:
        return (
            f"Mixed widths of {mixed.average_bits:.2f} bits on average beat {one} on the batches that they were chosen "
            f"by ({by}; {costs}): ship them, after a look at test batches."
        )
    if gap is not None and gap.mean > 0:
        return f"Mixed widths lead {one} by no more than chance explains ({by}; {costs}): ship {one}."
    return f"Mixed widths do not beat {one} ({by}; {costs}): ship {one}."
