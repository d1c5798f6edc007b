"""One option for each layer, at the least loss within a budget: a multiple-choice knapsack."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FRONT = 20_000
"""How many partial choices the search keeps at most; where there are more, the best one in each of as many intervals
of cost."""


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
