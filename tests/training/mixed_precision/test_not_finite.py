"""Values that are not finite: the step leaves no trace, the first bad layer is named, training stops in time."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from bitdial.training import TrainingDiverged
from bitdial.training.mixed_precision import AdaptiveMixedPrecisionTrainer, MixedPrecisionConfig, MixedPrecisionTrainer
from tests.training.mixed_precision.by_hand import batches, same_state, small_net
from tests.training.mixed_precision.faults import BadGradient, NotFiniteIn

ALL = (torch.float16, torch.bfloat16, torch.float32)


class Deep(nn.Module):
    """A network with a place for something bad in its middle."""

    def __init__(self, bad: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), bad, nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.after = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.blocks(self.norm(self.stem(x)))).flatten(1))


@pytest.mark.parametrize("kind", [MixedPrecisionTrainer, AdaptiveMixedPrecisionTrainer])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("what", ["output", "gradient"])
def test_first_bad_layer_is_named_and_training_stops(
    what: str, dtype: str, kind: type[MixedPrecisionTrainer], caplog: pytest.LogCaptureFixture
) -> None:
    model = Deep(NotFiniteIn(*ALL) if what == "output" else BadGradient())
    trainer = kind(MixedPrecisionConfig(dtype=dtype, overflow_patience=4, init_scale=1.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    layer = (
        "the output of layer 'blocks.1' (NotFiniteIn)"
        if what == "output"
        else "the gradient that layer 'blocks.1' (BadGradient) passes back"
    )
    before, steps = copy.deepcopy(model), 0

    def many_steps() -> None:
        nonlocal steps
        for x, y in batches(99):
            steps += 1
            trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y)

    with caplog.at_level(logging.INFO), pytest.raises(TrainingDiverged) as caught:
        many_steps()
    assert steps == 4
    assert layer in str(caught.value)
    assert "4 steps in a row, the last of them step 4" in str(caught.value)
    (record,) = caplog.records
    assert layer in record.getMessage()
    assert "4 in a row stop the run" in record.getMessage()
    trained = {name for name, _ in model.named_parameters()}
    assert trained.isdisjoint(same_state(model, before))
    if what == "output":
        assert same_state(model, before) == [], "running statistics have seen NaN"


def test_one_bad_batch_leaves_no_trace() -> None:
    """A batch with NaN in it costs its step and nothing else: the run is the one without that batch."""
    (a, b), data = (small_net(), small_net()), batches(12)
    spoiled = [*data[:5], (torch.full_like(data[0][0], float("nan")), data[0][1]), *data[5:]]
    for model, given in ((a, spoiled), (b, data)):
        model.drop.p = 0.0  # the spoiled batch draws its own dropout
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        outcomes = [trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y) for x, y in given]
        assert sum(outcome.skipped for outcome in outcomes) == len(given) - 12
        assert trainer.get_performance_summary()["not_finite_steps"] == len(given) - 12
    assert same_state(a, b) == []


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: (Deep(nn.Identity()), torch.full((8, 1, 8, 8), float("inf"))), "the model's input: look for bad"),
        (lambda: (_spoiled(Deep(nn.Identity())), None), "the parameter 'blocks.3.weight', which is not finite itself"),
    ],
)
def test_where_it_began_before_any_layer(make: object, says: str, caplog: pytest.LogCaptureFixture) -> None:
    model, x = make()  # type: ignore[operator]
    data, target = batches(1)[0]
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
    trainer.train_step(
        model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), data if x is None else x, target
    )
    assert says in caplog.text


def test_a_loss_that_breaks_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    model, (x, y) = small_net(), batches(1)[0]
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer.train_step(model, optimizer, lambda out, _: (out.float().sum() * 0 - 1).log(), x, y)
    assert "the loss, though every layer's output was finite" in caplog.text


def test_the_search_leaves_the_random_numbers_alone() -> None:
    """With and without a bad step in between, dropout draws on as if it had been skipped after its forward pass."""
    states = []
    for bad in (False, True):
        model = small_net()
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(7)
        for index, (x, y) in enumerate(batches(4)):
            trainer.train_step(
                model, optimizer, nn.CrossEntropyLoss(), x * float("nan") if bad and index == 2 else x, y
            )
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def _spoiled(model: Deep) -> Deep:
    with torch.no_grad():
        model.blocks[3].weight[0, 0, 0, 0] = float("nan")  # type: ignore[index,union-attr]
    return model
