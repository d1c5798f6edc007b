"""The optimizers that a run can choose, which parameters they decay, and an average of the weights that they move."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from bitdial.errors import BitdialError
from bitdial.layers.names import named_as, unwrapped
from bitdial.layers.widths import copy_widths
from bitdial.training.options import OptimizerOptions

_Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimizerConfig(OptimizerOptions):
    """Which optimizer moves the weights, and how fast."""

    learning_rate: float = Field(default=0.1, gt=0.0)
    """The full rate, which the schedule scales."""
    weight_decay: float = Field(default=5e-4, ge=0.0)
    """Strength of weight decay (decoupled from the gradient in adamw and muon)."""
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    """adamw, and the AdamW part of muon."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Build the optimizer that `config` names over the trainable parameters of `model`.

    Raises:
        BitdialError: a model without trainable parameters, nesterov without momentum, or Muon on a torch without it.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise BitdialError("the model has no trainable parameters; nothing is left to optimize")
    if config.optimizer == "sgd":
        if config.nesterov and config.momentum == 0:
            raise BitdialError("nesterov needs a momentum above 0, got momentum 0; set momentum (.9) or nesterov off")
        groups = _decay_groups(parameters, config)
        return SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov)
    if config.optimizer == "adamw":
        return AdamW(_decay_groups(parameters, config), lr=config.learning_rate, betas=config.betas)
    return _build_muon(model, parameters, config)


def _decay_groups(parameters: list[nn.Parameter], config: OptimizerConfig) -> list[dict[str, Any]]:
    if config.decay_norm_and_bias:
        return [{"params": parameters, "weight_decay": config.weight_decay}]
    kept = [p for p in parameters if p.ndim >= 2]
    spared = [p for p in parameters if p.ndim < 2]
    groups = [{"params": kept, "weight_decay": config.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _build_muon(model: nn.Module, parameters: list[nn.Parameter], config: OptimizerConfig) -> Optimizer:
    muon_class = getattr(torch.optim, "Muon", None)
    if muon_class is None:
        raise BitdialError(f"optimizer muon needs torch 2.9 or newer, got torch {torch.__version__}; use adamw")
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in embeddings]
    rest = [p for p in parameters if p.ndim != 2 or id(p) in embeddings]
    parts: list[Optimizer] = []
    if matrices:
        # "match_rms_adamw": one learning rate and weight decay then suit both halves (arXiv 2502.16982).
        rates = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "momentum": config.momentum}
        parts.append(muon_class(matrices, adjust_lr_fn="match_rms_adamw", **rates))
    if rest:
        parts.append(AdamW(_decay_groups(rest, config), lr=config.learning_rate, betas=config.betas))
    return parts[0] if len(parts) == 1 else CombinedOptimizer(*parts)


class CombinedOptimizer(Optimizer):
    """Several optimizers over disjoint parameters, stepped as one.

    `param_groups` are the parts' own groups, so that a learning-rate scheduler moves every part.
    """

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Step every part; `closure`, if given, is evaluated once, before."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of every part."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return ``{parts: [state of each]}``."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; the state of another optimizer is a `BitdialError`."""
        saved = state_dict.get("parts")
        if saved is None or len(saved) != len(self.parts):
            raise BitdialError(
                f"expected the state of {len(self.parts)} combined optimizers, got that of another optimizer; "
                "resume with the optimizer that the run was started with"
            )
        for part, state in zip(self.parts, saved, strict=True):
            part.load_state_dict(state)
        self._share_groups()  # loading replaced the parts' groups


def parts_of(optimizer: Optimizer) -> tuple[Optimizer, ...]:
    """Return the optimizers that hold the states of parameters: the parts of a combined one, else it alone."""
    return optimizer.parts if isinstance(optimizer, CombinedOptimizer) else (optimizer,)


def check_step(optimizer: Optimizer) -> None:
    """Refuse, as a `BitdialError`, an optimizer whose step must be handed a closure."""
    for part in parts_of(optimizer):
        # of the class: a learning-rate schedule puts another step into the optimizer itself
        asked = [*inspect.signature(type(part).step).parameters.values()][1:2]
        if any(each.default is each.empty and each.kind == each.POSITIONAL_OR_KEYWORD for each in asked):
            raise BitdialError(
                f"optimizer must step on one gradient, got {type(part).__name__}, whose step evaluates the loss itself "
                f"({asked[0].name}); take another one"
            )


@contextmanager
def scaled_learning_rate(optimizer: Optimizer, scale: float) -> Iterator[None]:
    """Hold every group's rate at `scale` times its scheduled value for the body, then put the scheduled value back.

    So a factor that changes at every step (narrow bits want a lower rate) composes with any schedule and leaves no
    trace in it.
    """
    if scale == 1.0:
        yield
        return
    scheduled = [(group, group["lr"]) for group in optimizer.param_groups]
    for group, rate in scheduled:
        group["lr"] = rate * scale
    try:
        yield
    finally:
        for group, rate in scheduled:
            group["lr"] = rate


class WeightAverage:
    """A copy of a model whose weights trail the trained ones: ``average += (1 - d) * (weights - average)``.

    The `decay` d is in [0, 1), else a `BitdialError`; .999 averages over about the last thousand steps. With `warmup`
    the memory is shorter at first, ``min(decay, (1 + n) / (10 + n))`` after n updates, so that the random first weights
    are forgotten soon.

    Parameters and running statistics of batch norm are averaged. Every other buffer is copied, and so are widths: an
    average of counters or of bits means nothing.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, *, warmup: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise BitdialError(f"the decay of the weight average must be in [0, 1), got {decay}; .999 is usual")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.module = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`: one call per applied optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        weights = list(zip(self.module.parameters(), model.parameters(), strict=True))
        statistics: list[tuple[Tensor, Tensor]] = []
        copied: list[tuple[Tensor, Tensor]] = []
        for (name, mine), theirs in zip(self.module.named_buffers(), model.buffers(), strict=True):
            (statistics if name.endswith(("running_mean", "running_var")) else copied).append((mine, theirs))
        for averaged in (weights, statistics):  # apart: weights may be in shards
            if averaged:
                torch._foreach_lerp_([mine for mine, _ in averaged], [theirs for _, theirs in averaged], 1.0 - decay)
        if copied:
            torch._foreach_copy_([mine for mine, _ in copied], [theirs for _, theirs in copied])
        copy_widths(self.module, model)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return ``{model_state_dict, updates}``; the tensors are the live ones."""
        return {"model_state_dict": unwrapped(self.module).state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.module.load_state_dict(named_as(self.module, state["model_state_dict"]))
        self.updates = int(state["updates"])
