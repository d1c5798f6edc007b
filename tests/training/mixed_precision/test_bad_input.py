"""What a tired or a hostile user gives: one sentence, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from bitdial.errors import BitdialError
from bitdial.training import Classification, LoopConfig, fit, make_fabric
from bitdial.training.mixed_precision import (
    AdaptiveMixedPrecisionTrainer,
    MixedPrecisionConfig,
    MixedPrecisionTrainer,
    train_with_mixed_precision,
)
from tests.training.mixed_precision.by_hand import batches, small_net

SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"dtype": "float12"}, "dtype must be one of float32, bfloat16, float16, float8, got 'float12'"),
    ({"dtype": "bfloat"}, "did you mean 'bfloat16'?"),
    ({"dtype": torch.int8}, "got 'torch.int8'"),
    ({"dtype": torch.float64}, "got 'torch.float64'"),
    ({"dtype": None}, "got 'None'"),
    ({"init_scale": 0}, "init_scale"),
    ({"init_scale": float("inf")}, "init_scale"),
    ({"init_scale": float("nan")}, "init_scale"),
    ({"growth_factor": 1.0}, "growth_factor"),
    ({"backoff_factor": 1.0}, "backoff_factor"),
    ({"backoff_factor": 0.0}, "backoff_factor"),
    ({"growth_interval": 0}, "growth_interval"),
    ({"overflow_patience": 0}, "overflow_patience"),
    ({"accumulation_steps": 1.5}, "accumulation_steps"),
    ({"max_grad_norm": -1.0}, "max_grad_norm"),
    ({"max_grad_norm": float("nan")}, "max_grad_norm"),
    ({"min_scale": 8.0, "init_scale": 4.0}, "min_scale must be at most init_scale, got 8 above 4"),
    ({"scale": 8.0}, "scale"),
]


@pytest.mark.parametrize(("settings", "says"), SETTINGS)
def test_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        MixedPrecisionConfig(**settings)
    assert says in str(caught.value)
    assert caught.value.error_count() == 1


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("float16", torch.float16), ("bf16", torch.bfloat16), ("torch.bfloat16", torch.bfloat16),
        ("FP16", torch.float16), ("16-mixed", torch.float16), ("float32", torch.float32),
        ("fp8", torch.float8_e4m3fn), (torch.half, torch.float16),
    ],
)  # fmt: skip
def test_names_that_people_use(name: Any, dtype: torch.dtype) -> None:
    assert MixedPrecisionConfig(dtype=name).dtype == dtype


def step(model: nn.Module, criterion: Any = None, data: Any = None, target: Any = None, **config: Any) -> None:
    x, y = batches(1)[0]
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(**config))
    trainer.prepare_model(model)
    trainer.train_step(
        model, torch.optim.SGD(model.parameters(), lr=0.1), criterion or nn.CrossEntropyLoss(),
        x if data is None else data, y if target is None else target,
    )  # fmt: skip


def foreign_optimizer() -> None:
    model = small_net()
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
    trainer.train_step(model, torch.optim.SGD(small_net().parameters(), lr=0.1), nn.CrossEntropyLoss(), *batches(1)[0])


def changed_in_between() -> None:
    model, trainer = small_net(), MixedPrecisionTrainer(MixedPrecisionConfig(accumulation_steps=2))
    for _ in range(2):
        trainer.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), *batches(1)[0])


def plateau() -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    MixedPrecisionTrainer().train_step(
        model, optimizer, nn.CrossEntropyLoss(), *batches(1)[0],
        scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),  # type: ignore[arg-type]
    )  # fmt: skip


def lbfgs() -> None:
    model = small_net()
    optimizer = torch.optim.LBFGS(model.parameters())
    MixedPrecisionTrainer().train_step(model, optimizer, nn.CrossEntropyLoss(), *batches(1)[0])


class Asking(torch.optim.SGD):
    """Steps on a closure only, as sharpness-aware ones do."""

    def step(self, closure: Any) -> Any:  # type: ignore[override]
        return super().step(closure)


def asking(in_loop: bool) -> None:
    model = small_net()
    optimizer = Asking(model.parameters(), lr=0.1)
    if in_loop:
        fit(make_fabric(accelerator="cpu"), model, optimizer, Classification(), batches(1), LoopConfig(epochs=1))
    else:
        MixedPrecisionTrainer().train_step(model, optimizer, nn.CrossEntropyLoss(), *batches(1)[0])


class Waves(nn.Module):
    """Has complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 4, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1).to(torch.complex64) @ self.weight).abs()


def no_criterion(criterion: Any) -> None:
    model = small_net()
    MixedPrecisionTrainer().train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), criterion, *batches(1)[0])


def swapped() -> None:
    model = small_net()
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
    MixedPrecisionTrainer().train_step(optimizer, model, nn.CrossEntropyLoss(), *batches(1)[0])  # type: ignore[arg-type]


def epochs(loader: Any, **options: Any) -> Any:
    model = small_net()
    return train_with_mixed_precision(
        model, loader, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), **options
    )


def adapt(now: Any, before: Any) -> Callable[[], Any]:
    return lambda: AdaptiveMixedPrecisionTrainer().adapt_config(now, before)


CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "weights in float16": (lambda: step(small_net().half()), "the weights must be in float32 for mixed precision, got"),
    "weights in bfloat16": (lambda: step(small_net().bfloat16(), dtype="bfloat16"), "do not call model.half()"),
    "no weights": (lambda: step(nn.Flatten()), "must have parameters to train, got Flatten with none"),
    "float8 on a CPU": (lambda: step(small_net(), dtype="float8"), "float8 needs an NVIDIA GPU"),
    "a loss for each example": (
        lambda: step(small_net(), nn.CrossEntropyLoss(reduction="none")),
        "must return one number, the loss, got shape [8]; take its mean",
    ),
    "no loss": (lambda: step(small_net(), lambda a, b: None), "got NoneType"),
    "another model's optimizer": (foreign_optimizer, "no parameter of the optimizer got a gradient"),
    "another optimizer in mid-step": (changed_in_between, "after 1 of 2 batches; call finish_step first"),
    "a schedule that waits for a score": (plateau, "call its step(score) after each evaluation instead"),
    "an optimizer that asks for the loss itself": (lbfgs, "must step on one gradient, got LBFGS"),
    "another one": (lambda: asking(False), "must step on one gradient, got Asking"),
    "another one in the loop": (lambda: asking(True), "must step on one gradient, got Asking"),
    "complex weights in float16": (lambda: step(Waves(), dtype="float16"), "the weights must be real numbers"),
    "no criterion": (lambda: no_criterion(None), "criterion must be a function (output, target) -> loss"),
    "a criterion by name": (lambda: no_criterion("mse"), "got 'mse'"),
    "a class for a criterion": (lambda: no_criterion(nn.CrossEntropyLoss), "got the class CrossEntropyLoss"),
    "a format for a config": (lambda: MixedPrecisionTrainer("bfloat16"), "config must be a MixedPrecisionConfig"),  # type: ignore[arg-type]
    "model and optimizer swapped": (swapped, "model must be a torch Module, got SGD"),
    "the state of something else": (
        lambda: MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16")).load_state_dict({"a": 1}),
        "expected the state of mixed precision or of a torch.amp.GradScaler, got the keys a",
    ),
    "no epochs": (lambda: epochs(batches(2), num_epochs=0), "num_epochs must be a whole number of at least 1, got 0"),
    "half an epoch": (lambda: epochs(batches(2), num_epochs=0.5), "got 0.5"),
    "no batch": (lambda: epochs([]), "gave no batch in epoch 0; is it empty, or gone through already?"),
    "a loader that ends for good": (lambda: epochs(iter(batches(2)), num_epochs=2), "gave no batch in epoch 1"),
    "batches that are no pairs": (
        lambda: epochs([torch.zeros(2)]),
        "must give pairs (data, target), got Tensor",
    ),
    "batches of three": (lambda: epochs([(1, 2, 3)]), "got 3 parts"),
    "nothing to compare": (adapt({"loss": 1.0}, {"accuracy": 1.0}), "must share one of accuracy, loss, step_time"),
    "an unknown measure": (adapt({"los": 1.0}, {"los": 1.0}), "must be given as accuracy, loss, step_time, got 'los'"),
    "a measure that is NaN": (adapt(float("nan"), 1.0), "the performance accuracy must be a finite number, got nan"),
    "a measure that is text": (adapt("good", 1.0), "must be a finite number, got 'good'"),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    call, says = CALLS[name]
    with pytest.raises(BitdialError) as caught:
        call()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_in_mid_step_does_not_poison_the_next() -> None:
    """A batch of the wrong shape raises PyTorch's own error, and its step begins anew with the next batch."""
    model, ((x, y), (x2, y2)) = small_net(), batches(2)
    other = small_net()
    for net, bad in ((model, True), (other, False)):
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(accumulation_steps=2))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        if bad:
            assert not trainer.train_step(net, optimizer, nn.CrossEntropyLoss(), x2, y2).stepped
            with pytest.raises(RuntimeError):
                trainer.train_step(net, optimizer, nn.CrossEntropyLoss(), x[..., :3], y)
        torch.manual_seed(4)
        assert not trainer.train_step(net, optimizer, nn.CrossEntropyLoss(), x, y).stepped
        assert trainer.train_step(net, optimizer, nn.CrossEntropyLoss(), x2, y2).stepped
    assert torch.equal(model.head.weight, other.head.weight)
