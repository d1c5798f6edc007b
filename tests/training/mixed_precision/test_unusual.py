"""Networks, losses, optimizers and settings that are unusual and legal; and wrong ones that come late."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.training import (
    OptimizerConfig,
    build_optimizer,
)
from bitdial.training.batches import to_device
from bitdial.training.mixed_precision import (
    MixedPrecisionConfig,
    MixedPrecisionTrainer,
    train_with_mixed_precision,
)
from tests.training.mixed_precision.by_hand import batches, same_state, small_net
from tests.training.mixed_precision.faults import Fault, FaultyForward, Scaled

CRITERION = nn.CrossEntropyLoss()
FORMATS = ["float16", "bfloat16", "float32"]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


class Odd(nn.Module):
    """A weight without elements, one that is used twice, one that is frozen, and one that no step uses."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.empty(0))
        self.words = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.words.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.unused = nn.Linear(4, 4)

    def forward(self, ids: Tensor, scale: float = 1.0) -> Tensor:
        return self.head(self.frozen(self.words(ids)).mean(dim=1) * scale) + self.nothing.sum()


@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("data", [lambda ids: ids, lambda ids: {"ids": ids, "scale": 2.0}, lambda ids: (ids, 2.0)])
def test_weights_of_every_kind_and_whole_numbers_as_input(
    data: Callable[[Tensor], Any], dtype: str, max_grad_norm: float | None
) -> None:
    model, ids, target = Odd(), torch.arange(12).view(4, 3) % 8, torch.tensor([1, 2, 3, 4])
    before = model.words.weight.detach().clone()
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype=dtype, init_scale=256.0, max_grad_norm=max_grad_norm))
    trainer.prepare_model(model)
    optimizer = torch.optim.SGD(
        [{"params": [model.words.weight]}, {"params": [*model.unused.parameters(), model.nothing], "lr": 0.5}], lr=0.1
    )
    assert trainer.train_step(model, optimizer, CRITERION, data(ids), target).stepped
    assert not torch.equal(model.words.weight, before)


def test_a_frozen_part_in_half_precision_is_no_mistake() -> None:
    """Adapters on a large network that nobody updates."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16).bfloat16().requires_grad_(False), nn.Linear(16, 4))
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
    trainer.prepare_model(model)
    assert trainer.train_step(model, sgd(model[2]), CRITERION, *batches(1)[0]).stepped


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("half", [nn.Module.half, nn.Module.bfloat16])
def test_weights_in_half_precision_without_prepare_model(half: Callable[[nn.Module], nn.Module], dtype: str) -> None:
    model = half(small_net())
    with pytest.raises(BitdialError, match=r"weights must be in float32 for mixed precision, got 'stem.weight'"):
        MixedPrecisionTrainer(MixedPrecisionConfig(dtype=dtype)).train_step(
            model, sgd(model), CRITERION, *batches(1)[0]
        )


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_loss_in_float16_of_any_shape(shape: tuple[int, ...]) -> None:
    """A loss of shape [1] stays in float16 when it is scaled, and 65536 is more than float16 holds: so not that."""
    model = small_net()
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(init_scale=2.0**15))
    outcome = trainer.train_step(
        model, sgd(model), lambda out, target: CRITERION(out, target).half().reshape(shape), *batches(1)[0]
    )
    assert outcome.loss_tensor.shape == ()
    assert math.isfinite(outcome.loss)
    assert outcome.stepped


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_loss_that_is_not_finite_while_its_gradient_is(value: float, dtype: str) -> None:
    model = small_net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype=dtype, init_scale=16.0))
    outcome = trainer.train_step(model, sgd(model), lambda out, y: CRITERION(out, y) + value, *batches(1)[0])
    assert outcome.skipped
    assert trainer.control.not_finite == 1
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_batch_without_examples_is_a_lost_step() -> None:
    model = small_net()
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
    nothing = torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.long)
    assert trainer.train_step(model, sgd(model), CRITERION, *nothing).skipped
    assert trainer.train_step(model, sgd(model), CRITERION, *batches(1)[0]).stepped


@pytest.mark.parametrize("broken", ["detached", "frozen"])
def test_a_loss_without_a_gradient(broken: str) -> None:
    model = small_net().requires_grad_(broken != "frozen")
    criterion = (lambda out, y: CRITERION(out, y).detach()) if broken == "detached" else CRITERION
    with pytest.raises(BitdialError, match="got one without a gradient; look for detach"):
        MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16")).train_step(
            model, sgd(model), criterion, *batches(1)[0]
        )


def test_what_is_left_without_a_gradient_is_a_sentence() -> None:
    model, trainer = small_net(), MixedPrecisionTrainer(MixedPrecisionConfig(accumulation_steps=2))
    trainer.train_step(model, sgd(small_net()), CRITERION, *batches(1)[0])
    with pytest.raises(BitdialError, match="no parameter of the optimizer got a gradient"):
        trainer.finish_step()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_complex_weights_without_a_loss_scale(dtype: str) -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(64, 4, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1).to(torch.complex64) @ self.weight).abs()

    model, trainer = Waves(), MixedPrecisionTrainer(MixedPrecisionConfig(dtype=dtype, max_grad_norm=1.0))
    assert trainer.train_step(model, sgd(model), CRITERION, *batches(1)[0]).stepped
    assert not torch.equal(model.weight, torch.ones_like(model.weight))


def test_an_optimizer_that_keeps_other_things_in_its_state() -> None:
    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            self.state["steps"] = self.state.get("steps", 0) + 1
            return super().step(closure)

    model, trainer = small_net(), MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
    optimizer = Counting(model.parameters(), lr=0.1)
    assert all(trainer.train_step(model, optimizer, CRITERION, x, y).stepped for x, y in batches(3))
    assert optimizer.state["steps"] == 3


def test_several_optimizers_in_one_that_run_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Muon for matrices and AdamW for the rest: the first may have moved when the second has no memory."""
    weights = []
    for fault in (Fault(()), Fault({1})):
        model = small_net()
        optimizer: Any = build_optimizer(model, OptimizerConfig(optimizer="muon", learning_rate=0.01))
        step = optimizer.parts[0].step

        def faulty(step: Any = step, fault: Fault = fault) -> None:
            fault()
            step()

        monkeypatch.setattr(optimizer.parts[0], "step", faulty)
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16", max_grad_norm=1.0))
        trainer.control.parts = 1 if fault.at else 2
        torch.manual_seed(5)
        trainer.train_step(model, optimizer, CRITERION, *batches(1)[0])
        weights.append(model)
    assert same_state(*weights) == []

    model = small_net()
    optimizer = build_optimizer(model, OptimizerConfig(optimizer="muon", learning_rate=0.01))
    monkeypatch.setattr(optimizer.parts[1], "step", Fault({1}))
    with pytest.raises(BitdialError, match="in the middle of the optimizer's update"):
        MixedPrecisionTrainer(MixedPrecisionConfig()).train_step(model, optimizer, Scaled(1e-3), *batches(1)[0])


def test_an_autocast_around_the_call_is_refused() -> None:
    """It would reach into the backward pass."""
    model, trainer = small_net(), MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(BitdialError, match="outside of autocast"):
        trainer.train_step(model, sgd(model), CRITERION, *batches(1)[0])
    assert trainer.train_step(model, sgd(model), CRITERION, *batches(1)[0]).stepped


@pytest.mark.parametrize("dtype", FORMATS)
def test_an_autocast_that_is_off_changes_nothing(dtype: str) -> None:
    """Inside of it PyTorch keeps the weights that it cast, for ever, unless told otherwise."""
    losses, models = [], []
    for context in (nullcontext(), torch.autocast("cpu", enabled=False)):
        model = small_net()
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype=dtype, init_scale=256.0))
        optimizer = sgd(model)
        torch.manual_seed(3)
        with context:
            losses.append([trainer.train_step(model, optimizer, CRITERION, x, y).loss for x, y in batches(4)])
        models.append(model)
    assert losses[0] == losses[1]
    assert same_state(*models) == []


def test_tensors_go_to_the_device_in_whatever_holds_them() -> None:
    Pair = namedtuple("Pair", "x y")
    moved = to_device(
        {"a": [torch.ones(2), (torch.ones(1), "text")], "b": Pair(torch.ones(3), 4)}, torch.device("meta")
    )
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == moved["b"].x.device.type == "meta"
    assert moved["a"][1][1] == "text"
    assert isinstance(moved["b"], Pair)


def test_a_loader_of_mappings() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, image: Tensor) -> Tensor:
            return self.net(image)

    model = Named()
    given = [({"image": x}, y) for x, y in batches(3)]
    config = MixedPrecisionConfig(dtype="bfloat16")
    assert math.isfinite(train_with_mixed_precision(model, given, sgd(model), CRITERION, 1, config)["final_loss"])


def test_out_of_memory_in_cublas_is_no_other_error() -> None:
    fault = Fault(
        {1}, lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    )
    model = nn.Sequential(nn.Flatten(), FaultyForward(fault), nn.Linear(64, 4))
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(enabled=False))
    assert trainer.train_step(model, sgd(model), CRITERION, *batches(1)[0]).stepped
    assert trainer.control.parts == 2
