"""Labels of every dtype and form: the right values, or one sentence; and in a loop of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.evaluation.sweep import evaluate
from bitdial.training import Classification, LoopConfig, fit, make_fabric
from bitdial.training.mixed_precision import MixedPrecisionConfig, MixedPrecisionTrainer

INPUTS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
DTYPES = [torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.bool]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def by_loop(labels: Any, inputs: Tensor = INPUTS) -> tuple[Tensor, dict[str, float]]:
    """Weights after a step, and scores."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(make_fabric(accelerator="cpu"), model, optimizer, Classification(), [(inputs, labels)], LoopConfig(epochs=1))
    return model.weight.detach(), evaluate(model, [(inputs, labels)])  # type: ignore[return-value]


def by_hand(labels: Any, criterion: Any = None) -> Tensor:
    model = net()
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(enabled=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer.train_step(model, optimizer, criterion or nn.CrossEntropyLoss(), INPUTS, labels)
    return model.weight.detach()  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_numbers_of_any_dtype(dtype: torch.dtype) -> None:
    weight, scores = by_loop(LABELS.to(dtype))
    expected, expected_scores = by_loop(LABELS)
    assert torch.equal(weight, expected)
    assert scores == expected_scores
    assert torch.equal(by_hand(LABELS.to(dtype)), by_hand(LABELS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_probabilities_of_any_dtype(dtype: torch.dtype) -> None:
    soft = nn.functional.one_hot(LABELS, 3)
    torch.testing.assert_close(by_loop(soft.to(dtype))[0], by_loop(LABELS)[0])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.int32])
def test_labels_left_out_count_nowhere(dtype: torch.dtype) -> None:
    some = LABELS.clone()
    some[3:] = -100
    weight, scores = by_loop(some.to(dtype))
    expected, expected_scores = by_loop(LABELS[:3], INPUTS[:3])
    torch.testing.assert_close(weight, expected)
    assert scores == pytest.approx(expected_scores)


def test_nothing_to_score_is_a_sentence() -> None:
    with pytest.raises(BitdialError, match="loader must give at least one batch to score"):
        evaluate(net(), [(INPUTS, torch.full((8,), -100))])


def test_a_batch_without_examples_moves_nothing() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(INPUTS[:0], LABELS[:0])]
    fit(make_fabric(accelerator="cpu"), model, optimizer, Classification(), batches, LoopConfig(epochs=1))
    assert torch.equal(model.weight, net().weight)  # type: ignore[arg-type]


def with_one(label: int) -> Tensor:
    labels = LABELS.clone()
    labels[2] = label
    return labels


WRONG: dict[str, tuple[Any, str, str]] = {
    "whole numbers as floats": (LABELS.float(), "got torch.float32 of shape [8]", "a target of float32 [8]"),
    "one-hot whole numbers": (
        nn.functional.one_hot(LABELS, 3), "got torch.int64 of shape [8, 3]", "a target of int64 [8, 3]"
    ),
    "a column": (LABELS[:, None], "got torch.int64 of shape [8, 1]", "a target of int64 [8, 1]"),
    "complex": (LABELS.to(torch.complex64), "got torch.complex64 of shape [8]", "a target of complex64 [8]"),
    "too few": (LABELS[:5], "got torch.int64 of shape [5]", "a target of int64 [5]"),
    "a list": (LABELS.tolist(), "must be a tensor, got list", "a target of list"),
    "nothing": (None, "must be a tensor, got NoneType", "a target of NoneType"),
    "-1": (with_one(-1), "got a label of -1", "Target -1 is out of bounds"),
    "too high": (with_one(3), "got a label of 3", "Target 3 is out of bounds"),
    "255 in uint8": (with_one(255).to(torch.uint8), "got a label of 255", "Target 255 is out of bounds"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_no_model_can_learn_is_a_sentence(name: str) -> None:
    labels, in_loop, in_hand = WRONG[name]
    for call, says in ((by_loop, in_loop), (by_hand, in_hand)):
        with pytest.raises(BitdialError) as caught:
            call(labels)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_criterion_of_ones_own() -> None:
    """Labels that torch does not take are told; whatever else it raises is its own."""

    def own(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target)

    def broken(output: Tensor, target: Tensor) -> Tensor:
        raise ValueError("a bad row")

    with pytest.raises(BitdialError, match=r"a target of int32 \[8\].*must be whole numbers of int64"):
        by_hand(LABELS.int(), own)
    with pytest.raises(ValueError, match="a bad row"):
        by_hand(LABELS, broken)
