import math

import pytest
import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.evaluation.sweep import evaluate_loss_accuracy, sweep, unchanged
from bitdial.layers import BitDial, quantize, reestimate_batch_norm
from bitdial.training import Classification


def batches(count=3, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, 8, 8, generator=generator), torch.randint(5, (size,), generator=generator))
        for _ in range(count)
    ]


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    return quantize(net, weights=4, activations=4, skip=())


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_scores_every_width_in_the_order_given(model):
    scores = sweep(model, batches(), bits=(8, 2, 32))
    assert [score.bits for score in scores] == [8, 2, 32]
    assert all(0 <= score.accuracy <= 1 and score.loss > 0 for score in scores)
    assert len({score.loss for score in scores}) == 3
    assert scores[0].perplexity is None


def test_equals_turning_the_dial_by_hand(model):
    data = batches()
    score = sweep(model, data, bits=[3], reestimate=False)[0]
    dial = BitDial(model)
    dial.set(3)
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(x) for x, _ in data])
    labels = torch.cat([y for _, y in data])
    assert score.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)
    assert score.accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_leaves_the_model_exactly_as_it_was(model):
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    BitDial(model).set([3, 5, 7])
    before, random, tensors = state(model), torch.get_rng_state(), [id(buffer) for buffer in model.buffers()]
    sweep(model, batches(), bits=(2, 8), recalibration_batches=batches(seed=1))
    after = state(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in model.modules()] == modes
    assert BitDial(model).weights == [3, 5, 7]
    assert torch.equal(torch.get_rng_state(), random)
    assert [id(buffer) for buffer in model.buffers()] == tensors
    assert all(parameter.grad is None for parameter in model.parameters())


def test_leaves_the_model_as_it_was_when_scoring_fails(model):
    class Broken:
        def logits(self, model, batch):
            return model(batch[0])

        def score(self, model, batch):
            raise RuntimeError("no")

    before = state(model)
    model.train()
    with pytest.raises(RuntimeError, match="no"):
        sweep(model, batches(), bits=(2,), task=Broken())
    after = state(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training for module in model.modules())


def test_statistics_are_re_estimated_at_each_width(model):
    data, training = batches(), batches(seed=1)
    stale, fresh = (
        sweep(model, data, bits=(2,), reestimate=again, recalibration_batches=training)[0] for again in (False, True)
    )
    BitDial(model).set(2)
    assert stale.loss == pytest.approx(evaluate_loss_accuracy(model, data)[0], abs=1e-6)
    reestimate_batch_norm(model, training)
    assert fresh.loss == pytest.approx(evaluate_loss_accuracy(model, data)[0], abs=1e-6)
    assert abs(fresh.loss - stale.loss) > 1e-3


def test_a_width_does_not_depend_on_those_before_it(model):
    together = sweep(model, batches(), bits=(2, 8))[1]
    alone = sweep(model, batches(), bits=(8,))[0]
    assert together == alone


def test_recalibration_takes_no_more_batches_than_the_limit(model):
    taken = []

    class Counting:
        def __iter__(self):
            for batch in batches(6):
                taken.append(1)
                yield batch

    sweep(model, batches(1), bits=(4,), recalibration_batches=Counting(), recalibration_limit=2)
    assert len(taken) == 2


def test_a_width_for_each_layer(model):
    layers = len(BitDial(model))
    score = sweep(model, batches(1), bits=[[2.0] + [4.0] * (layers - 1)])[0]
    assert score.bits == pytest.approx((2 + 4 * (layers - 1)) / layers)


def test_a_task_of_ones_own_and_perplexity(model):
    class Tokens:
        """Batches that are dictionaries: no images, no pairs."""

        def logits(self, model, batch):
            return model(batch["x"])

        def score(self, model, batch):
            return {"loss": torch.tensor(2.0 * len(batch["x"])), "accuracy": torch.tensor(3)}, len(batch["x"])

    data = [{"x": torch.randn(4, 3, 8, 8)}, {"x": torch.randn(2, 3, 8, 8)}]
    score = sweep(model, data, bits=(4,), task=Tokens(), perplexity=True)[0]
    assert (score.loss, score.accuracy) == (2.0, 1.0)
    assert score.perplexity == pytest.approx(math.exp(2))


def test_a_short_last_batch_counts_for_less():
    class Fixed(nn.Module):
        def forward(self, x):
            return torch.tensor([[10.0, 0.0]]).repeat(len(x), 1)

    data = [
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(1, 1), torch.ones(1, dtype=torch.int64)),
    ]
    loss, accuracy = evaluate_loss_accuracy(Fixed(), data)
    assert accuracy == 0.75
    assert loss == pytest.approx(0.25 * 10, abs=1e-3)


def test_unchanged_puts_replaced_buffers_back(model):
    buffer, value = model[1].running_mean, model[1].running_mean.clone()
    with unchanged(model):
        model[1].running_mean = torch.full((8,), 5.0)
        buffer.fill_(3.0)
    assert model[1].running_mean is buffer
    assert torch.equal(buffer, value)


def test_errors(model):
    with pytest.raises(BitdialError, match="at least one width"):
        sweep(model, batches(), bits=())
    with pytest.raises(BitdialError, match=r"pass list\(loader\)"):
        sweep(model, iter(batches()), bits=(2,))
    with pytest.raises(BitdialError, match="at least one batch to score"):
        sweep(model, [], bits=(2,), reestimate=False)
    with pytest.raises(BitdialError, match="bits"):
        sweep(model, batches(), bits=(0,))
    with pytest.raises(BitdialError, match="quantized layers"):
        sweep(nn.Linear(2, 2), batches(), bits=(2,))


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [{"loss": torch.tensor(1.0)}, 16],
        (torch.tensor(1.0), torch.tensor(1.0), 16),
        ({"accuracy": torch.tensor(1.0)}, 16),
        ({"loss": 1.0}, 16),
        ({"loss": torch.ones(3)}, 16),
        ({"loss": torch.tensor(1.0), "top2": None}, 16),
        ({"loss": torch.tensor(1.0), 3: torch.tensor(1.0)}, 16),
        ({"loss": torch.tensor(1.0)}, -1),
        ({"loss": torch.tensor(1.0)}, torch.tensor(16.0)),
        ({"loss": torch.tensor(1.0)}, 16.0),
    ],
)
def test_a_score_of_another_form_is_refused_with_what_is_expected(model, bad):
    class Own(Classification):
        def score(self, model, batch):
            return bad

    with pytest.raises(BitdialError, match="must return sums by name and their count"):
        sweep(model, batches(), bits=[4], task=Own())


def test_scores_that_come_and_go_are_refused(model):
    class Own(Classification):
        calls = 0

        def score(self, model, batch):
            self.calls += 1
            sums, count = super().score(model, batch)
            return {**sums, f"top{self.calls}": sums["accuracy"]}, count

    with pytest.raises(BitdialError, match="got loss, accuracy, top1 and then loss, accuracy, top2"):
        sweep(model, batches(), bits=[4], task=Own())


def test_what_else_is_scored_stands_under_its_name(model):
    class Own(Classification):
        def score(self, model, batch):
            sums, count = super().score(model, batch)
            return {**sums, "missed": count - sums["accuracy"]}, count

    (score,) = sweep(model, batches(), bits=[4], task=Own())
    assert score.metrics == {"missed": pytest.approx(1 - score.accuracy)}
    assert "metrics" in score.model_dump()
    assert "metrics" not in sweep(model, batches(), bits=[4])[0].model_dump()
