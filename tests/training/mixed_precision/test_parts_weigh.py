"""A step in parts, or over several batches, is the step of the whole: each part weighs what its loss is a mean over."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitdial.errors import BitdialError
from bitdial.training import Classification, Distillation, LoopConfig, TaskOutput, fit, make_fabric
from bitdial.training.mixed_precision import MixedPrecisionConfig, MixedPrecisionTrainer
from tests.training.mixed_precision.by_hand import same_state
from tests.training.mixed_precision.faults import Fault, FaultyForward

WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 9.0])
SCATTERED = [0, -100, 2, 3, 1, -100, -100, -100]
HALF = [1, 0, 3, 2, -100, -100, -100, -100]
"""Labels of eight examples, none of the second half counts."""


def data(labels: list[int]) -> tuple[Tensor, Tensor]:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.tensor(labels)


def net(fault: Fault | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), FaultyForward(fault or Fault(())), nn.Linear(5, 4))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1.0)


def stepped(
    criterion: Any, batch: tuple[Any, Any], calls: set[int], wrap: Callable[[nn.Module], nn.Module] = lambda net: net
) -> tuple[list[Tensor], Tensor]:
    """Weights and loss after a step that runs out of memory at some calls."""
    model = wrap(net(Fault(calls)))
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(enabled=False))
    outcome = trainer.train_step(model, sgd(model), criterion, *batch)
    assert trainer.control.parts == 2 ** len(calls)
    return [*model.parameters()], outcome.loss_tensor


@pytest.mark.parametrize("calls", [{1}, {1, 2}, {1, 2, 4}])
@pytest.mark.parametrize("labels", [SCATTERED, HALF])
@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=WEIGHTS), functional.cross_entropy,
        nn.CrossEntropyLoss(weight=WEIGHTS, ignore_index=3, label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=WEIGHTS, reduction="sum"),
    ],
)  # fmt: skip
def test_labels_that_are_left_out_and_weights_of_classes(criterion: Any, labels: list[int], calls: set[int]) -> None:
    inputs, target = data(labels)
    if getattr(criterion, "ignore_index", -100) != -100:
        target = target.where(target >= 0, 3)
    expected, got = (stepped(criterion, (inputs, target), which) for which in (set(), calls))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_predictions_for_every_place() -> None:
    """Segmentation, and text: labels with more dimensions than one."""

    class Places(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).transpose(1, 2)

    inputs = torch.randn(8, 3, 6, generator=torch.Generator().manual_seed(1))
    target = torch.randint(4, (8, 3), generator=torch.Generator().manual_seed(2))
    target[5:] = target[1:, 2] = -100
    expected, got = (stepped(nn.CrossEntropyLoss(), (inputs, target), which, Places) for which in (set(), {1}))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


class Named(nn.Module):
    """Gives its output in a mapping, and something else beside it."""

    def __init__(self, net: nn.Module, beside: Callable[[Tensor], Tensor] = lambda output: output * 2) -> None:
        super().__init__()
        self.net, self.beside = net, beside

    def forward(self, x: Tensor) -> dict[str, Any]:
        output = self.net(x)
        return {"logits": output, "more": [self.beside(output)], "name": "text"}


def test_a_criterion_of_ones_own_that_is_a_mean_over_rows() -> None:
    criteria: list[tuple[Any, Any]] = [
        (lambda output, target: functional.cross_entropy(output, target), lambda net: net),
        (lambda output, target: (output - 1).pow(2).mean(), lambda net: net),
        (lambda output, target: functional.cross_entropy(output["logits"], target), Named),
    ]
    for criterion, wrap in criteria:
        batch = data([0, 1, 2, 3, 3, 2, 1, 0])
        expected, got = (stepped(criterion, batch, which, wrap) for which in (set(), {1, 2}))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def contrast(output: Tensor, target: Tensor) -> Tensor:
    """Each example against all others."""
    return functional.cross_entropy(output @ output.T, torch.arange(len(output)))


@pytest.mark.parametrize(
    ("criterion", "wrap", "says"),
    [
        (lambda out, y: functional.cross_entropy(out, y), lambda net: net, "the criterion gives"),
        (partial(functional.cross_entropy, weight=WEIGHTS), lambda net: net, "the criterion gives"),
        (contrast, lambda net: net, "the criterion gives"),
        (lambda out, y: out["more"][0], partial(Named, beside=lambda out: out.pow(2).mean()), "cannot be put together"),
    ],
)
def test_a_criterion_that_is_no_mean_over_rows_is_refused(criterion: Any, wrap: Any, says: str) -> None:
    with pytest.raises(BitdialError, match=f"cannot be repeated in parts.*{says}.*lower the batch size") as caught:
        stepped(criterion, data(SCATTERED), {1}, wrap)
    assert "\n" not in str(caught.value)


def test_a_refused_step_leaves_nothing() -> None:
    model = net(Fault({1}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(enabled=False))
    with pytest.raises(BitdialError):
        trainer.train_step(model, sgd(model), contrast, *data(HALF))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


class Tokens:
    """A task that counts the words of a text, in batches of ``(inputs, counts)``; no word, no number."""

    metric, higher_is_better = "loss", False

    def examples(self, batch: Any) -> int:
        return int(batch[1].sum())

    def logits(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0])

    def loss_of(self, logits: Tensor, batch: Any) -> TaskOutput:
        loss = (logits.pow(2).sum(dim=1) * batch[1]).sum() / batch[1].sum()
        return TaskOutput(loss, len(logits), {"twice": 2 * loss.detach()})

    def loss(self, model: nn.Module, batch: Any) -> TaskOutput:
        return self.loss_of(self.logits(model, batch), batch)

    def score(self, model: nn.Module, batch: Any) -> Any:
        raise NotImplementedError


class OnDevice(Classification):
    """Counts as on a GPU, which nobody waits for: in a tensor."""

    def examples(self, batch: Any) -> Tensor:
        return torch.tensor(super().examples(batch))


def fitted(task: Any, batches: list[Any], calls: set[int], **config: Any) -> tuple[nn.Module, Any]:
    model = net(Fault(calls))
    state = fit(make_fabric(accelerator="cpu"), model, sgd(model), task, batches, LoopConfig(epochs=1, **config))
    return model, state


TASKS: dict[str, tuple[Callable[[], Any], tuple[Tensor, Tensor]]] = {
    "labels left out": (Classification, data(SCATTERED)),
    "a half without labels": (lambda: Classification(0.1), data(HALF)),
    "counted on the device": (OnDevice, data(SCATTERED)),
    "counted on the device, a half without labels": (OnDevice, data(HALF)),
    "distilled": (lambda: Distillation(Classification(), net(), alpha=0.5), data(SCATTERED)),
    "distilled, a half without labels": (lambda: Distillation(Classification(), net(), alpha=0.5), data(HALF)),
    "words": (Tokens, data([3, 1, 0, 7, 1, 0, 0, 2])),
    "words, none in a half": (Tokens, data([3, 1, 0, 7, 0, 0, 0, 0])),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_loop_in_parts_and_in_several_batches(name: str) -> None:
    task, (inputs, labels) = TASKS[name]
    model, state = fitted(task(), [(inputs, labels)], set())
    halves = [*zip(inputs.split([3, 5]), labels.split([3, 5]), strict=True)]
    if name.endswith(("half", "half without labels")):
        halves = [*zip(inputs.split(4), labels.split(4), strict=True)]
    for batches, calls, config in (
        ([(inputs, labels)], {1}, {}),
        ([(inputs, labels)], {1, 2}, {}),
        (halves, set(), {"gradient_accumulation_steps": 2}),
        (halves, {2}, {"gradient_accumulation_steps": 2}),
    ):
        other, got = fitted(task(), batches, calls, **config)
        assert got.control.parts == 2 ** len(calls)
        torch.testing.assert_close([*other.parameters()], [*model.parameters()], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got.history["loss"], state.history["loss"], rtol=1e-5, atol=1e-6)


def test_a_batch_without_a_label_that_counts_moves_nothing() -> None:
    (inputs, _), model = data(HALF), net()
    for smoothing in (0.0, 0.1):
        other, state = fitted(Classification(smoothing), [(inputs, torch.full((8,), -100))], set())
        assert same_state(other, model) == []
        assert state.applied_steps == 1


@pytest.mark.parametrize(
    ("norm", "says"), [(nn.BatchNorm1d(5), "batch norm sees each part alone"), (nn.Identity(), "the same gradient")]
)
def test_batch_norm_is_told_of(norm: nn.Module, says: str) -> None:
    model = net(Fault({1}))
    model[1] = norm
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(enabled=False))
    said: list[str] = []
    trainer.control.tell = said.append
    for _ in range(2):
        trainer.train_step(model, sgd(model), nn.CrossEntropyLoss(), *data(SCATTERED))
    assert len(said) == 1
    assert says in said[0]
