"""A step that is given up, by an error, Ctrl-C or a change in its middle, leaves nothing to the next one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.training.mixed_precision import AdaptiveMixedPrecisionTrainer, MixedPrecisionConfig, MixedPrecisionTrainer
from tests.training.mixed_precision.by_hand import batches, same_state, small_net
from tests.training.mixed_precision.faults import Fault, FaultyForward

CRITERION = nn.CrossEntropyLoss()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def net(fault: Fault) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), FaultyForward(fault), nn.Linear(64, 4))


class Later(Fault):
    """Out of memory at the first call, another error when the step is tried again, in its second half."""

    def __init__(self, error: Callable[[], BaseException]) -> None:
        super().__init__({1, 3})
        self.then = error

    def __call__(self, *_: Any) -> None:
        super().__call__()
        self.error = self.then


def a_lost_try(fault: Fault, error: type[BaseException], size: int = 8) -> tuple[nn.Module, nn.Module]:
    """Weights after a step that raised and one that did not, and after the second alone."""
    models, parts = [], 1
    for faulty in (True, False):
        chosen = fault if faulty else Fault(())
        model = net(chosen)
        trainer, optimizer = MixedPrecisionTrainer(MixedPrecisionConfig(enabled=False)), sgd(model)
        first, second = batches(2, size=size)
        if faulty:
            with pytest.raises(error):
                trainer.train_step(model, optimizer, CRITERION, *first)
            assert all(p.grad is None for p in model.parameters())
            chosen.at = set()
            parts = trainer.control.parts
        trainer.control.parts = parts
        assert trainer.train_step(model, optimizer, CRITERION, *second).stepped
        models.append(model)
    return models[0], models[1]


def test_memory_that_was_never_enough_leaves_no_gradient() -> None:
    """Part of the batch went through before the last try ran out as well."""
    assert same_state(*a_lost_try(Fault({1, 3}), BitdialError, size=2)) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, lambda: ValueError("a bad row"), lambda: RuntimeError("shapes")])
def test_another_error_while_a_step_is_tried_again(error: Callable[[], BaseException]) -> None:
    assert same_state(*a_lost_try(Later(error), type(error()))) == []


def accumulating(kind: type[MixedPrecisionTrainer] = AdaptiveMixedPrecisionTrainer) -> tuple[Any, nn.Module, Any]:
    """One of two batches is in: its gradient is scaled by 65536."""
    model = small_net()
    trainer, optimizer = kind(MixedPrecisionConfig(accumulation_steps=2)), sgd(model)
    trainer.train_step(model, optimizer, CRITERION, *batches(1)[0])
    return trainer, model, optimizer


@pytest.mark.parametrize(
    "change",
    [
        lambda trainer: trainer.adapt_config(0.1, 0.9),
        lambda trainer: trainer._reduce_mixed_precision_aggressiveness(),
    ],
)
def test_the_format_cannot_change_in_mid_step(change: Callable[[Any], Any]) -> None:
    """Gradients that float16 scaled would be applied as they are."""
    trainer, model, optimizer = accumulating()
    with pytest.raises(BitdialError, match="after 1 of 2 batches; call finish_step first"):
        change(trainer)
    assert trainer.control.history == []
    trainer.control.scaler.scale = 1024.0  # small enough for what comes
    trainer.finish_step()
    assert change(trainer).startswith("now in bfloat16")
    assert trainer.train_step(model, optimizer, CRITERION, *batches(1)[0]).skipped is False


def test_a_state_that_is_loaded_forgets_the_step_under_way() -> None:
    trainer, model, optimizer = accumulating()
    trainer.load_state_dict({**trainer.state_dict(), "scaler": {"scale": 64.0, "growth_tracker": 0}})
    other = small_net()
    fresh = MixedPrecisionTrainer(MixedPrecisionConfig(accumulation_steps=2, init_scale=64.0))
    other.load_state_dict(model.state_dict())
    for each, net, opt in ((trainer, model, optimizer), (fresh, other, sgd(other))):
        torch.manual_seed(4)
        stepped = [each.train_step(net, opt, CRITERION, x, y).stepped for x, y in batches(2, seed=3)]
        assert stepped == [False, True]
    assert same_state(model, other) == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
def test_copies_go_on_between_two_steps(copied: Callable[[Any], Any]) -> None:
    """Without the model, and without half a step of it; scale and counters are there."""
    trainer, model, optimizer = accumulating()
    trainer.train_step(model, optimizer, CRITERION, *batches(1)[0])
    trainer.train_step(model, optimizer, CRITERION, *batches(1)[0])
    other = copied(trainer)
    assert other.state_dict() == trainer.state_dict()
    assert other.control.steps == 1
    assert other.finish_step() is False
    model.zero_grad()
    assert not other.train_step(model, optimizer, CRITERION, *batches(1)[0]).stepped
    assert other.train_step(model, optimizer, CRITERION, *batches(1)[0]).stepped
    assert (other.control.steps, trainer.control.steps) == (2, 1)


def test_an_error_in_the_users_own_hook() -> None:
    model = small_net()
    trainer, optimizer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16")), sgd(model)

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    handle = optimizer.register_step_pre_hook(broken)
    with pytest.raises(ZeroDivisionError):
        trainer.train_step(model, optimizer, CRITERION, *batches(1)[0])
    assert all(p.grad is None for p in model.parameters())
    assert trainer.control.steps == 0
    handle.remove()
    assert trainer.train_step(model, optimizer, CRITERION, *batches(1)[0]).stepped


class Graphs:
    """Counts graphs that are alive."""

    alive = most = 0


class _Counted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Graphs.alive += 1
        Graphs.most = max(Graphs.most, Graphs.alive)
        return x * float("nan")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        Graphs.alive -= 1
        return gradient


class Counted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Counted.apply(x)


def test_the_search_for_the_bad_layer_takes_no_more_memory_than_the_step() -> None:
    """Not all micro-batches at once, nor whole ones where a step is cut: memory is short by then."""
    Graphs.alive = Graphs.most = 0
    sizes: list[int] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), Counted())
    model[1].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16", accumulation_steps=4))
    trainer.control.parts = 2
    said: list[str] = []
    trainer.control.tell = said.append
    optimizer = sgd(model)
    for x, y in batches(4):
        outcome = trainer.train_step(model, optimizer, CRITERION, x, y)
    assert outcome.skipped
    assert "the output of layer '2' (Counted)" in said[0]
    assert Graphs.most == 1
    assert sizes == [4] * 8 * 3  # the step, the search, and the same in float32
