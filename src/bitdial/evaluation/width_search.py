"""Mixed widths under a budget: which layers can be narrow at the least cost, and whether that beats a single width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from torch import Tensor, nn

from bitdial.errors import BitdialError, suggest
from bitdial.evaluation.arguments import Criterion, check_device, check_options, nothing_drawn, task_for
from bitdial.evaluation.equal_cost import ledger_of
from bitdial.evaluation.results import Accuracy, Measured, Record, WidthScore
from bitdial.evaluation.sensitivity import loss_rise, one_at_a_time
from bitdial.evaluation.sweep import RECALIBRATION_LIMIT, check_batches, sweep
from bitdial.evaluation.wording import bits, engineering, points
from bitdial.layers import BitDial, Ledger
from bitdial.training.tasks import Task

MEASURES = ("size", "bitops")
FRONT = 20_000
"""How many partial choices the search keeps at most; where there are more, the best one in each of as many intervals
of cost."""


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
    sentence: str
    """Which of the two to ship, and by how much it is better."""

    @property
    def mixed_is_better(self) -> bool:
        """Whether mixed widths are the more accurate ones, by the loss where there is no accuracy."""
        if math.isfinite(self.mixed.accuracy) and math.isfinite(self.uniform.accuracy):
            return self.mixed.accuracy > self.uniform.accuracy
        return self.mixed.loss < self.uniform.loss

    @property
    def chosen(self) -> WidthChoice:
        """The better of the two; ``BitDial(model).set(list(found.chosen.widths))`` turns a model there."""
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
    multiple-choice knapsack; exact while there are at most `FRONT` of them). Of equal sums the one that uses more of
    the budget is taken, as a rise of 0 is more often noise than the truth. That rises add up is an assumption, so both
    results are scored, and the sentence says when mixed widths do not win. With L layers and K options that takes
    (K - 1) L + K + 1 scores.

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
    how, names = task_for(loss_fn, task), BitDial(model).names
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
        costs, rises = np.empty((count, len(widths))), np.zeros((count, len(widths)))
        for column, width in enumerate(widths):
            alone = one_at_a_time(count, width, widths[0])
            costs[:, column] = [cost(one) - least for one in alone]
            if width != highest:
                scores = score(one_at_a_time(count, width, highest))
                rises[:, column] = [loss_rise(uniform[highest], one) for one in scores]
        unspent = 1e-9 * (costs.max(axis=1, keepdims=True) - costs) / max(costs.max(), 1.0)
        found = [widths[column] for column in best_choice(costs, falling(rises) + unspent, float(budget) - least)]
        (mixed,) = score([found])
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
        layers=names, measure=measure, budget=float(budget), mixed=both[0], uniform=both[1], sentence=""
    )
    return record.model_copy(update={"sentence": _sentence(record)})


def falling(rises: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rises ``[layers, options]``, narrowest first, without noise that contradicts sense.

    None is below 0, nor below that of a wider option.
    """
    return np.maximum.accumulate(np.maximum(rises, 0.0)[:, ::-1], axis=1)[:, ::-1]


def best_choice(costs: NDArray[np.float64], rises: NDArray[np.float64], budget: float) -> list[int]:
    """Return the option of each layer with the least sum of `rises` whose sum of `costs` is at most `budget`.

    Args:
        costs, rises: ``[layers, options]``, costs of 0 or more; the cheapest option of every layer must fit together.
        budget: what the costs may sum up to.

    Returns:
        The column chosen in each row. Of equal sums of rises the cheapest is taken.
    """
    slack = budget * (1 + 1e-12)
    later = [*np.cumsum(costs.min(axis=1)[::-1])[::-1][1:], 0.0]
    cost, rise = np.zeros(1), np.zeros(1)
    steps: list[tuple[NDArray[np.int_], NDArray[np.int_]]] = []
    for layer, rest in enumerate(later):
        options = costs.shape[1]
        total, worse = (cost[:, None] + costs[layer]).ravel(), (rise[:, None] + rises[layer]).ravel()
        order = np.lexsort((worse, total))
        order = order[total[order] + rest <= slack]
        lower = np.minimum.accumulate(worse[order])
        order = order[np.r_[True, lower[1:] < lower[:-1]]]
        if len(order) > FRONT:
            place = np.floor(total[order] / max(slack, 1e-300) * (FRONT - 1)).astype(int)
            order = order[np.r_[place[1:] != place[:-1], True]]  # the dearest of an interval is its best
        steps.append((order // options, order % options))
        cost, rise = total[order], worse[order]
    at, chosen = len(cost) - 1, []
    for parents, columns in reversed(steps):
        chosen.append(int(columns[at]))
        at = int(parents[at])
    return chosen[::-1]


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
    gain = mixed.accuracy - uniform.accuracy
    by = (
        f"{points(gain, digits=2)} points"
        if math.isfinite(gain)
        else f"loss {mixed.loss:.4f} against {uniform.loss:.4f}"
    )
    if found.mixed_is_better:
        return (
            f"Mixed widths of {mixed.average_bits:.2f} bits on average beat {one} on the batches that they were chosen "
            f"by ({by}; {costs}): ship them, after a look at test batches."
        )
    return f"Mixed widths do not beat {one} ({by}; {costs}): ship {one}."
