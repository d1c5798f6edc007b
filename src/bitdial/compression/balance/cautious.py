"""Cautious Adam: Adam that leaves out what its momentum wants against the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bitdial.errors import BitdialError, as_bitdial_errors
from bitdial.schedules._checks import check_list, check_number

MOST = 10.0
"""The largest factor on what is left of an update."""


class CautiousAdam(Optimizer):
    """AdamW whose update is 0 wherever momentum and gradient disagree in sign.

    With the mask ``[m * g > 0]`` of a tensor, what is left of its update is multiplied with ``1 / mean(mask)``, at most
    10, so that its size stays about the same. Sources: Liang et al., "Cautious Optimizers", 2024 (arXiv 2411.16085);
    the limit is that of the published code of balanced rate-distortion training, whose results were made with it.

    Args:
        params: parameters, or groups of them.
        lr: learning rate, from 0 up.
        betas: decay of the running means of the gradient and of its square, in [0, 1).
        eps: added to the root of the second, from 0 up.
        weight_decay: decoupled from the gradient, from 0 up.

    Raises:
        BitdialError: a number out of bounds.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        with as_bitdial_errors():
            for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
                check_number(value, name, least=0)
            given = [check_number(beta, "each of betas", least=0) for beta in check_list(betas, "betas", "(.9, .999)")]
        if len(given) != 2 or max(given) >= 1:
            raise BitdialError(f"betas must be two numbers in [0, 1), got {betas!r}; (.9, .999) is usual")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step; `closure`, if given, is evaluated before.

        Raises:
            BitdialError: a sparse gradient, or complex weights.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if gradient.is_sparse or parameter.is_complex():
            what = "a sparse gradient" if gradient.is_sparse else "complex weights"
            raise BitdialError(f"CautiousAdam needs dense gradients of real weights, got {what}; take torch.optim.Adam")
        state = self.state[parameter]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        state["step"] += 1
        mean, square, (beta1, beta2), lr = state["exp_avg"], state["exp_avg_sq"], group["betas"], group["lr"]
        parameter.mul_(1 - lr * group["weight_decay"])
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (square.sqrt() / (1 - beta2 ** state["step"]) ** 0.5).add_(group["eps"])
        mask = (mean * gradient > 0).to(mean.dtype)
        # The published code also keeps the mean above 1e-3, which the limit on the factor makes of no effect.
        mask /= mask.mean().clamp(min=1 / MOST)
        parameter.addcdiv_(mean * mask, root, value=-lr / (1 - beta1 ** state["step"]))
