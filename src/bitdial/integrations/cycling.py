"""What the callbacks share: the dial stands at the cycle's widths in a training step, and at the target width else."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from bitdial.errors import BitdialError, suggest
from bitdial.layers import BitDial, QuantizedLayer
from bitdial.layers.cycling import CyclicPrecisionScheduler
from bitdial.layers.options import CyclicPrecisionConfig
from bitdial.numerics import check_bits

_BASE = "learning_rate_before_bits"


class MissingPackageError(BitdialError, ImportError):
    """A package is not installed; the text says how to install it. An `ImportError` too, as that is what is caught."""


class CyclesPrecision:
    """The part of a callback that no trainer is needed for.

    The position in the cycle is the trainer's own count of optimizer steps and nothing else, so that it can neither
    drift from the trainer's log nor be lost with a checkpoint. The arguments are those of the callbacks; `scheduler` is
    what turns the dial, None before training starts.

    Raises:
        BitdialError: a config of another type, or a width outside [1, 32].
    """

    def __init__(
        self, config: CyclicPrecisionConfig | None = None, *, module: str = "", target_bits: float | None = None
    ) -> None:
        super().__init__()
        config = CyclicPrecisionConfig() if config is None else config
        if not isinstance(config, CyclicPrecisionConfig):
            raise BitdialError(
                f"config must be a CyclicPrecisionConfig, got {type(config).__name__}; "
                "write CyclicPrecisionConfig(bit_width_pattern=[8, 4, 8], ...)"
            )
        if not isinstance(module, str):
            raise BitdialError(f"module must be the name of a part of the model, got {type(module).__name__}")
        self.config = config
        self.module = module
        self.target_bits = max(config.bit_width_pattern)
        if target_bits is not None:
            self.target_bits = check_bits(target_bits, "target_bits")
        self.scheduler: CyclicPrecisionScheduler | None = None
        self._part: nn.Module | None = None
        self._rate: StepRate | None = None

    @property
    def bits(self) -> list[float]:
        """Width of each layer in the running training step, or in the last one.

        Raises:
            BitdialError: training has not started.
        """
        return self._running().bits

    @property
    def mean_bits(self) -> float:
        """Mean of `bits`: what is logged."""
        return statistics.fmean(self.bits)

    @property
    def lr_scale(self) -> float:
        """Factor on the learning rate of the running training step; 1 unless ``adjust_lr_with_bits``."""
        return self._running().lr_scale

    def _start(self, model: nn.Module) -> None:
        """Take hold of the model's quantized layers, and leave them at the target width."""
        self._part = self._find_part(model)
        try:
            dial = BitDial(self._part)
        except BitdialError as error:
            where = f'module "{self.module}"' if self.module else "the model"
            raise BitdialError(
                f"{where} must have quantized layers, got none in {type(self._part).__name__}; "
                "call bitdial.quantize(model) before training starts"
            ) from error
        self.scheduler = CyclicPrecisionScheduler(dial, self.config)
        self._rest()

    def _scale_rates(self, optimizers: Iterable[Any]) -> None:
        """Let the learning rates follow the widths, if the config says so."""
        self._release_rates()
        if self.config.adjust_lr_with_bits:
            self._rate = StepRate(optimizers, lambda: self.lr_scale)

    def _release_rates(self) -> None:
        if self._rate is not None:
            self._rate.detach()
            self._rate = None

    def _go_to(self, step: int) -> None:
        """Turn the dial to where the cycle stands after `step` optimizer steps."""
        self._running().load_state_dict({"iteration": step})

    def _rest(self) -> None:
        """Turn the dial to the target width."""
        self._running().dial.set(self.target_bits)

    def _values(self) -> dict[str, float]:
        """What is logged of a training step, by name."""
        values = {self._label("bits"): self.mean_bits}
        if self.config.adjust_lr_with_bits:
            values[self._label("lr_scale")] = self.lr_scale
        return values

    def _label(self, name: str) -> str:
        return f"{name}/{self.module}" if self.module else name

    def _refuse_overlap(self, others: Iterable[CyclesPrecision]) -> None:
        """Raise if a callback of the same training turns the same layers."""
        mine = _layers(self._part)
        for other in others:
            if other is not self and mine & _layers(other._part):
                names = [f'module="{each.module}"' if each.module else "the whole model" for each in (self, other)]
                raise BitdialError(
                    f"two callbacks must turn different layers, got {names[0]} and {names[1]}; "
                    "give each its own part of the model with module=..."
                )

    def _running(self) -> CyclicPrecisionScheduler:
        if self.scheduler is None:
            raise BitdialError(
                f"{type(self).__name__} has no dial before training starts; pass it to the Trainer, and train"
            )
        return self.scheduler

    def _find_part(self, model: nn.Module) -> nn.Module:
        try:
            return model.get_submodule(self.module)
        except AttributeError as error:
            names = [name for name, part in model.named_modules() if name and _layers(part)]
            hint = suggest(self.module, names) or f"; parts with quantized layers are: {', '.join(names) or 'none'}"
            raise BitdialError(f"module must be a part of {type(model).__name__}, got '{self.module}'{hint}") from error


def _layers(part: nn.Module | None) -> set[QuantizedLayer]:
    return set() if part is None else {layer for layer in part.modules() if isinstance(layer, QuantizedLayer)}


class StepRate:
    """Multiplies the learning rates of optimizers with a factor while they step, and puts the exact values back.

    It hangs on the optimizer's own step hooks: whatever happens between two steps (a scheduler, a log, a checkpoint)
    sees the unscaled rate, and a step that a loss scaler skips is never scaled. Several on one optimizer multiply.

    `factor` is asked at every step.

    Raises:
        BitdialError: an optimizer without step hooks.
    """

    def __init__(self, optimizers: Iterable[Any], factor: Callable[[], float]) -> None:
        self._optimizers = [_innermost(optimizer) for optimizer in optimizers]
        self._factor = factor
        self._handles: list[RemovableHandle] = []
        for optimizer in self._optimizers:
            _put_back(optimizer)  # a step that raised may have left its rate scaled
            self._handles.append(optimizer.register_step_pre_hook(self._scale))
            self._handles.append(optimizer.register_step_post_hook(lambda stepped, *_: _put_back(stepped)))

    def detach(self) -> None:
        """Take the hooks off, and put back what a step that raised has left scaled."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for optimizer in self._optimizers:
            _put_back(optimizer)

    def _scale(self, optimizer: Optimizer, *_: Any) -> None:
        factor = self._factor()
        for group in optimizer.param_groups:
            rate = group["lr"]
            # A tensor keeps its identity: captured graphs and schedulers hold on to it.
            if isinstance(rate, Tensor):
                group.setdefault(_BASE, rate.detach().clone())
                rate.mul_(factor)
            else:
                group.setdefault(_BASE, rate)
                group["lr"] = rate * factor


def _put_back(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        base = group.pop(_BASE, None)
        if isinstance(base, Tensor):
            group["lr"].copy_(base)
        elif base is not None:
            group["lr"] = base


def _innermost(optimizer: Any) -> Optimizer:
    """Find the torch optimizer in its wrappers (accelerate's claims to be one, but has no hooks)."""
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise BitdialError(
            f"adjust_lr_with_bits must have a torch optimizer whose rate it can scale, got {type(optimizer).__name__}; "
            "set adjust_lr_with_bits=False, or train without the plugin that replaces the optimizer"
        )
    return optimizer
