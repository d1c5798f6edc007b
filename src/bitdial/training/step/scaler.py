"""The loss scale: what keeps float16 gradients from vanishing, and finds out when they overflow."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.training.step.config import MixedPrecisionConfig


class LossScaler:
    """Multiplies the loss, divides the gradients, tells whether they are finite, and moves the scale.

    The arithmetic is that of `torch.amp.GradScaler`, whose kernels it uses, so that a run is bit for bit that of a loop
    written with it (with optimizers that unscale in their own kernel: where the factors are powers of two). Beyond it:
    the scale is known on the host at all times and never falls below ``config.min_scale`` (PyTorch's own can reach 0);
    a step that was lost is told, not hidden; a state that cannot be right is refused.

    Without `scaling` it only looks for values that are not finite, at a scale of 1 that never moves (bfloat16). Its
    `growth_tracker` counts applied steps in a row since the scale last moved.
    """

    def __init__(self, config: MixedPrecisionConfig, device: torch.device | str, *, scaling: bool) -> None:
        self.scaling = scaling and config.use_grad_scaling
        self.dynamic = self.scaling and config.use_dynamic_loss_scaling
        self.config, self.min_scale = config, _float32(config.min_scale)
        self.scale = _float32(config.init_scale) if self.scaling else 1.0
        self.growth_tracker = 0
        self._kernels = torch.amp.GradScaler(torch.device(device).type, init_scale=self.scale)

    @property
    def at_floor(self) -> bool:
        """Whether an overflow cannot be answered by a lower scale."""
        return not self.dynamic or self.scale <= self.min_scale

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss times the scale."""
        return self._kernels.scale(loss) if self.scaling else loss

    def unscale(self, optimizer: Optimizer) -> Tensor:
        """Divide the gradients by the scale, in place; return a 0-dim float, above 0 where one is not finite.

        Raises:
            BitdialError: weights in float16 or complex ones, whose gradients cannot be unscaled; or no gradient at all.
        """
        if not self.scaling:
            return not_finite(optimizer)
        try:
            self._kernels.unscale_(optimizer)
        except (ValueError, NotImplementedError) as error:
            if any(p.is_complex() for group in optimizer.param_groups for p in group["params"]):
                raise BitdialError(
                    "the weights must be real numbers for float16, whose loss scale no kernel takes off complex "
                    "gradients, got complex ones; take bfloat16 or float32"
                ) from error
            raise BitdialError(
                "the weights must be in float32 for mixed precision, got float16; do not call model.half(), autocast "
                "chooses the format of every operation"
            ) from error
        found = list(self._kernels._found_inf_per_device(optimizer).values())
        if not found:
            raise BitdialError(_NO_GRADIENT)
        return torch.stack([each.to(found[0].device) for each in found]).sum()

    def applied(self) -> None:
        """Take notice of a step without overflow."""
        if self.dynamic:
            self.growth_tracker += 1
            if self.growth_tracker == self.config.growth_interval:
                grown = _float32(self.scale * self.config.growth_factor)
                self.scale = grown if math.isfinite(grown) else self.scale
                self.growth_tracker = 0
        self.forget()

    def overflowed(self) -> None:
        """Take notice of a step that was lost to an overflow: back off, down to the floor."""
        if self.dynamic:
            self.scale = max(_float32(self.scale * self.config.backoff_factor), self.min_scale)
            self.growth_tracker = 0
        self.forget()

    def move(self, device: torch.device) -> None:
        """Go on at the same scale on another device."""
        self._kernels = torch.amp.GradScaler(device.type, init_scale=self.scale)

    def forget(self) -> None:
        """Make ready for the next backward pass, with nothing noticed."""
        if self.scaling and self._kernels._scale is None:  # nothing was scaled yet
            self._kernels = torch.amp.GradScaler(self._kernels._device, init_scale=self.scale)
        elif self.scaling:
            self._kernels.update(self.scale)

    def state_dict(self) -> dict[str, Any]:
        """Return scale and growth tracker."""
        return {"scale": self.scale, "growth_tracker": self.growth_tracker}

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Restore what `state_dict` gave, or what `torch.amp.GradScaler` did; return what a user should know.

        Raises:
            BitdialError: a scale or tracker that no scaler can have had.
        """
        if not self.scaling:
            return []
        if not state:
            return [f"the saved scaler was switched off: the loss scale starts at {self.scale:g}"]
        count = "growth_tracker" if "growth_tracker" in state else "_growth_tracker"
        scale, tracker = (checked("the loss scaler", name, state.get(name)) for name in ("scale", count))
        notes = []
        if scale < self.min_scale:
            notes.append(f"the saved loss scale of {scale:g} is below min_scale: it starts at {self.min_scale:g}")
        if self.dynamic:
            self.scale, self.growth_tracker = _float32(max(scale, self.min_scale)), int(tracker)
        elif scale != self.scale:
            notes.append(f"the loss scale is held at {self.scale:g}; the saved one was {scale:g}")
        self.forget()
        return notes


_KIND = attrgetter("layout", "dtype", "device")
_NO_GRADIENT = "no parameter of the optimizer got a gradient; does the loss depend on the model?"


def not_finite(optimizer: Optimizer) -> Tensor:
    """Return a 0-dim float, 1 where a gradient is not finite; of gradients in shards, where this process's part is.

    Raises:
        BitdialError: no gradient at all.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        raise BitdialError(_NO_GRADIENT)
    gradients = [each.to_local() if hasattr(each, "to_local") else each for each in gradients]
    device = gradients[0].device
    plain = {*map(type, gradients)} == {Tensor} and device.type in ("cpu", "cuda")
    if plain and {*map(_KIND, gradients)} == {(torch.strided, torch.float32, device)}:
        found = torch.zeros((), device=device)  # one kernel for all of them; a factor of 1 changes no value
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, torch.ones((), device=device))
        return found
    return any_not_finite(gradients)


def any_not_finite(gradients: list[Tensor]) -> Tensor:
    """Return a 0-dim float, 1 where one of any tensors is not finite: the plain form of what `not_finite` asks."""
    dense = [each.coalesce().values() if each.is_sparse else each for each in gradients]
    dense = [each for each in dense if each.numel()]
    if not dense:
        return torch.zeros((), device=gradients[0].device)
    return (~torch.isfinite(torch.nn.utils.get_total_norm(dense, norm_type=math.inf))).float()


def checked(owner: str, name: str, value: Any, least: int = 0) -> float:
    """Return a number out of a saved state.

    Raises:
        BitdialError: not a finite number of `least` or more.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        raise BitdialError(f"the state of {owner} must have {name} of {least} or more, got {value!r}; it is damaged")
    return value


def _float32(value: float) -> float:
    """Round to the nearest float32: the scale is one on the device. Infinite where float32 ends."""
    return ctypes.c_float(value).value
