"""The weights that keep several losses in balance: what they are, and how they learn from what a step did to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bitdial.errors import BitdialError, as_bitdial_errors
from bitdial.schedules._checks import check_count, check_list, check_number

EPSILON = 1e-8


class TaskWeights:
    """Weights p of K tasks, from logits w that an Adam of their own moves; w is 0 at first.

    With losses L, their lower bounds m and ``z = softmax(w)``, a step minimises ``sum z_i log D_i``, ``D = L - m +
    1e-8``, divided by ``c = sum z_i / D_i``, which gets no gradient. Its gradient is ``sum p_i grad L_i`` with

        ``p_i = (z_i / D_i) / sum_j (z_j / D_j)``,  so that ``sum p = 1``.

    What the step did to each loss, ``delta = log D_before - log D_after``, then moves w by Adam on
    ``J^T delta + gamma w``, J the Jacobian of the softmax: the loss that fell least gets more weight.
    Sources: Zhang et al., "Balanced Rate-Distortion Optimization in Learned Image Compression", CVPR 2025, solution 1
    (m = -1); Liu et al., "FAMO", NeurIPS 2023 (m = 0).

    All of it is K numbers, in float64 on the host: the same on every device and in every process.

    Args:
        num_tasks: K, from 2 up.
        gamma: decay of w, from 0 up; one for all tasks, or one for each.
        lr: of w's Adam.
        min_losses: m, one for each task; None: -1 each.

    Raises:
        BitdialError: a number that is out of bounds, or not one for each task.
    """

    def __init__(
        self,
        num_tasks: int = 2,
        gamma: float | Sequence[float] = 0.003,
        lr: float = 0.025,
        min_losses: Sequence[float] | None = None,
    ) -> None:
        with as_bitdial_errors():
            self.num_tasks = check_count(num_tasks, "num_tasks", least=2)
            if check_number(lr, "w_lr", least=0) == 0:
                raise BitdialError(f"w_lr must be above 0, got {lr!r}; .025 is usual")
        self.gamma = gamma
        self.min_losses = torch.tensor(self._one_each([-1.0] * num_tasks if min_losses is None else min_losses, "m"))
        self.w = torch.zeros(num_tasks, dtype=torch.float64)
        self._adam = torch.optim.Adam([self.w], lr=lr)

    @property
    def gamma(self) -> float | tuple[float, ...]:
        """The decay of w: one for all tasks, or one for each."""
        return self._gamma

    @gamma.setter
    def gamma(self, value: float | Sequence[float]) -> None:
        with as_bitdial_errors():
            self._gamma: float | tuple[float, ...] = (
                tuple(self._one_each(value, "gamma", least=0))
                if isinstance(value, list | tuple)
                else check_number(value, "gamma", least=0)
            )

    def _one_each(self, values: Sequence[float], name: str, least: float = -float("inf")) -> list[float]:
        name = "min_losses" if name == "m" else name
        with as_bitdial_errors():
            given = check_list(values, name, f"{[-1.0] * self.num_tasks}")
            numbers = [check_number(value, f"{name}[{index}]", least) for index, value in enumerate(given)]
        if len(numbers) != self.num_tasks:
            raise BitdialError(
                f"{name} must be one for each of the {self.num_tasks} tasks, got {len(numbers)}; give one for each"
            )
        return numbers

    def p(self, losses: Tensor) -> Tensor:
        """Return p for losses ``[K]``, both on the host.

        Raises:
            BitdialError: a loss that is not above its lower bound.
        """
        shares = torch.softmax(self.w, 0) / self._above_bound(losses)
        return shares / shares.sum()

    def update(self, before: Tensor, after: Tensor) -> None:
        """Move w by what a step did to the losses ``[K]`` of its batch.

        Raises:
            BitdialError: a loss that is not above its lower bound.
        """
        delta = self._above_bound(before).log() - self._above_bound(after).log()
        z = torch.softmax(self.w, 0)
        self.w.grad = z * (delta - (z * delta).sum()) + torch.tensor(self.gamma, dtype=torch.float64) * self.w
        self._adam.step()

    def _above_bound(self, losses: Tensor) -> Tensor:
        above = losses - self.min_losses + EPSILON
        if bool((above > 0).all()):
            return above
        index = int((above <= 0).nonzero()[0])
        raise BitdialError(
            f"every loss must be above its min_losses, got loss {losses[index]:g} of task {index} with min_losses "
            f"{self.min_losses[index]:g}; give a lower bound that the loss cannot reach"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return w, the state of its Adam, and gamma."""
        return {"w": self.w.clone(), "adam": self._adam.state_dict(), "gamma": self.gamma}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; the rate of w stays that of this object.

        Raises:
            BitdialError: the state is of another number of tasks.
        """
        if len(state["w"]) != self.num_tasks:
            raise BitdialError(
                f"expected the weights of {self.num_tasks} tasks, got those of {len(state['w'])}; resume with the "
                "losses that the run was started with"
            )
        self.w.copy_(state["w"])
        rate = self._adam.param_groups[0]["lr"]
        self._adam.load_state_dict(dict(state["adam"]))
        self._adam.param_groups[0]["lr"] = rate
        self.gamma = state["gamma"]
