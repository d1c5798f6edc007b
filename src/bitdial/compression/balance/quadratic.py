"""Balanced rate-distortion training, solution 2: in every step the weights that a quadratic program gives."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor
from torch.optim import Optimizer

from bitdial.compression.balance.task_optimizer import Losses, TaskOptimizer, mean_over_processes
from bitdial.errors import BitdialError, as_bitdial_errors
from bitdial.schedules._checks import check_number
from bitdial.training.devices import is_distributed

MOST_TASKS = 8


class QuadraticBalance(TaskOptimizer):
    """Steps along ``sum p_i grad L_i`` with weights that make the losses fall alike, each in proportion to itself.

    With ``v_i = grad L_i / L_i``, w minimises ``w^T V V^T w`` with ``sum w = 1`` (`quadratic_weights`), and
    ``p_i = (w_i / L_i) / sum_j (w_j / L_j)``. Nothing is remembered from step to step.
    Source: Zhang et al., "Balanced Rate-Distortion Optimization in Learned Image Compression", CVPR 2025, solution 2.

    One forward and `num_tasks` backward passes a step, and as many gradients in memory. In several processes the
    gradients of each loss are averaged here, whether or not the model is wrapped.

    Args:
        optimizer: any torch optimizer, over the model's weights, which are on one device.
        num_tasks: number of losses, up to 8.
        simplex: weights from 0 up. False: the published form, whose weights may be negative; a step on which they are
            no average any more is skipped.
        ridge: added to the diagonal of ``V V^T``, as a share of its mean, above 0: gradients may be parallel.
        max_norm: 2-norm to which a longer gradient is scaled down; None: never.

    Attributes:
        w, p: weights of the last step, ``[num_tasks]``.

    Raises:
        BitdialError: an optimizer whose step needs a closure, or a number out of bounds.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        num_tasks: int = 2,
        *,
        simplex: bool = True,
        ridge: float = 1e-8,
        max_norm: float | None = 1.0,
    ) -> None:
        super().__init__(optimizer, num_tasks, max_norm)
        if num_tasks > MOST_TASKS:
            raise BitdialError(f"num_tasks must be at most {MOST_TASKS} here, got {num_tasks}; take BalancedOptimizer")
        with as_bitdial_errors():
            if check_number(ridge, "ridge", least=0) == 0:
                raise BitdialError("ridge must be above 0, got 0; 1e-8 is enough for parallel gradients")
        self.simplex, self.ridge = simplex, ridge
        self.w = torch.full((num_tasks,), 1 / num_tasks, dtype=torch.float64)
        self.p = self.w.clone()

    def step(self, losses: Losses) -> Tensor:  # type: ignore[override]
        """Do one step; return the losses ``[num_tasks]`` before it, averaged over the processes.

        Args:
            losses: runs the model on the batch and returns its losses, one tensor ``[num_tasks]``, all above 0.

        Raises:
            BitdialError: `losses` is no such function, or a loss is not above 0.
            TrainingDiverged: too many steps in a row were not finite.
        """
        found = self._ask_with_graph(losses)
        before = mean_over_processes(found)
        if not bool(before.isfinite().all()):
            self._skip("a loss")
            return before
        if bool((before <= 0).any()):
            raise BitdialError(f"every loss must be above 0 here, got {before.tolist()}; add a constant to it")
        parameters = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        gradients = _gradients(found, parameters)
        products = (gradients @ gradients.T).cpu().double() / before.outer(before)
        if not bool(products.isfinite().all()):
            self._skip("a gradient")
            return before
        w = quadratic_weights(products, ridge=self.ridge, simplex=self.simplex)
        p = w / before
        if float(p.sum()) <= 0:  # to divide by it would turn the direction round
            self._skip("an average with the published weights")
            return before
        p = p / p.sum()
        direction = p.to(gradients.dtype).to(gradients.device) @ gradients
        pieces = torch.split(direction, [each.numel() for each in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter).to(parameter.dtype)
        if self._move():
            self.w, self.p = w, p
        return before


def _gradients(losses: Tensor, parameters: list[Tensor]) -> Tensor:
    """Return the gradient of each loss, averaged over the processes, ``[losses, numbers of all parameters]``."""
    rows = []
    for index, one in enumerate(torch.eye(len(losses), dtype=losses.dtype, device=losses.device)):
        last = index == len(losses) - 1
        found = torch.autograd.grad(losses, parameters, one, retain_graph=not last, allow_unused=True)
        whole = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        rows.append(torch.cat([each.flatten() for each in whole]))
    gradients = torch.stack(rows)
    if is_distributed():  # DistributedDataParallel averages what backward() makes, which is not called here
        torch.distributed.all_reduce(gradients)
        gradients /= torch.distributed.get_world_size()
    return gradients


def quadratic_weights(products: Tensor, *, ridge: float = 1e-8, simplex: bool = True) -> Tensor:
    """Return the w that minimises ``w^T Q w`` with ``sum w = 1``: ``Q^-1 1 / (1^T Q^-1 1)``.

    Args:
        products: Q, ``[K, K]``, scalar products of gradients.
        ridge: share of the mean of its diagonal that is added to that.
        simplex: only from weights of 0 and above: a combination of gradients along which no loss rises.
    """
    count = len(products)
    q = products + torch.eye(count, dtype=products.dtype) * (ridge * products.diagonal().mean().clamp(min=1e-30))
    if not simplex:
        return _equality(q)
    # The minimum is that of the equality form over the tasks that have a weight: with so few, all sets are tried.
    best, lowest = torch.full((count,), 1 / count, dtype=q.dtype), torch.inf
    for size in range(1, count + 1):
        for chosen in map(list, combinations(range(count), size)):
            w = torch.zeros(count, dtype=q.dtype)
            w[chosen] = _equality(q[chosen][:, chosen])
            value = float(w @ q @ w)
            if value < lowest and bool((w >= 0).all()):
                best, lowest = w, value
    return best


def _equality(q: Tensor) -> Tensor:
    w: Tensor = torch.linalg.solve(q, torch.ones(len(q), dtype=q.dtype))
    return w / w.sum()
