"""Validation at random widths: what it computes, by hand; what it leaves; what it refuses."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from bitdial.errors import BitdialError
from bitdial.evaluation import (
    VALIDATION_FUNCTIONS,
    sweep,
    validate_fixed_bitwidth,
    validate_random_bitwidths,
    validate_simple,
)
from bitdial.evaluation.width_validation import Spread
from bitdial.layers import BitDial, cost, quantize
from bitdial.training import Classification

BITS = [2, 4, 8]


def data(count=3, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, size, 6, generator=generator)
    return [(x, (x[:, :3].argmax(1))) for x in inputs]


def network(**quantization):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    return quantize(net, **({"skip": ()} | quantization))


@pytest.fixture
def model():
    return network()


def quietly(model, loader=None, *args, **more):
    return validate_random_bitwidths(model, data() if loader is None else loader, *args, verbose=False, **more)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def by_hand(model, batches, widths):
    """Accuracy and loss of Linear, BatchNorm1d, ReLU, Linear at two widths, statistics re-estimated, in plain torch."""
    first, norm, _, last = (part for part in model)

    def grid(x, low, high, bits):
        step = (high - low) / (2**bits - 1)
        return low + step * ((x.clamp(low, high) - low) / step).round()

    def weight(layer, bits):
        top = layer.weight.detach().abs().amax(1, keepdim=True)
        return (
            torch.maximum(torch.minimum(grid(layer.weight.detach() / top, -1.0, 1.0, bits), top * 0 + 1), -1 + top * 0)
            * top
        )

    w1, w2 = weight(first, widths[0]), weight(last, widths[1])
    b1, b2 = first.bias.detach(), last.bias.detach()
    ranges, moments, inner = [], [], []
    for x, _ in batches:
        h = grid(x, x.min(), x.max(), widths[0]) @ w1.T + b1
        a = ((h - h.mean(0)) / (h.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias).relu().detach()
        ranges.append((x.min(), x.max()))
        moments.append((h.mean(0), h.var(0)))
        inner.append((a.min(), a.max()))
    (low1, high1), (mean, var), (low2, high2) = (
        [torch.stack(part).mean(0) for part in zip(*each, strict=True)] for each in (ranges, moments, inner)
    )
    loss = right = 0.0
    for x, y in batches:
        h = grid(x, low1, high1, widths[0]) @ w1.T + b1
        a = ((h - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias).relu().detach()
        logits = grid(a, low2, high2, widths[1]) @ w2.T + b2
        loss += functional.cross_entropy(logits, y, reduction="sum").item()
        right += (logits.argmax(1) == y).sum().item()
    count = sum(len(y) for _, y in batches)
    return right / count, loss / count


def test_equals_a_computation_by_hand(model):
    batches = data()
    found = quietly(model, batches, nn.CrossEntropyLoss(), "cpu", 8, BITS, seed=3)
    expected = [by_hand(model, batches, each.widths) for each in found.configurations]
    assert len({each.widths for each in found.configurations}) > 3
    assert found.accuracies == [pytest.approx(accuracy) for accuracy, _ in expected]
    assert found.losses == [pytest.approx(loss, rel=1e-5) for _, loss in expected]
    widths = [sum(each.widths) / 2 for each in found.configurations]
    assert found.bitwidths == widths
    for spread, values in ((found.accuracy, found.accuracies), (found.loss, found.losses), (found.bits, widths)):
        assert spread.mean == pytest.approx(sum(values) / 8)
        assert spread.std == pytest.approx(statistics.pstdev(values))
        assert (spread.min, spread.max) == (min(values), max(values))
    assert found.correlation == pytest.approx(np.corrcoef(widths, found.accuracies)[0, 1])


def test_is_what_a_sweep_at_the_same_widths_finds(model):
    found = quietly(model, None, None, None, 3, BITS, reestimate=False)
    scores = sweep(model, data(), [each.widths for each in found.configurations], reestimate=False)
    assert found.accuracies == [score.accuracy for score in scores]
    assert found.losses == [score.loss for score in scores]
    assert not found.reestimated


def test_draws_follow_from_the_seed_alone(model):
    once = quietly(model, num_configs=6)
    torch.manual_seed(99)
    random.seed(99)
    assert quietly(model, num_configs=6) == once
    assert [each.widths for each in quietly(model, num_configs=6, seed=1).configurations] != [
        each.widths for each in once.configurations
    ]
    longer = quietly(model, num_configs=9)
    assert longer.configurations[:6] == once.configurations


def test_a_shuffling_loader_makes_no_difference_from_call_to_call(model):
    inputs = torch.cat([x for x, _ in data(8)])
    loader = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=8, shuffle=True)
    once = quietly(model, loader, recalibration_limit=2)
    torch.manual_seed(5)
    assert quietly(model, loader, recalibration_limit=2) == once


class _Stumbling(Classification):
    calls = 0

    def score(self, model, batch):
        self.calls += 1
        if self.calls > 4:
            raise RuntimeError("stumbled")
        random.random()
        np.random.random()
        torch.rand(1)
        return super().score(model, batch)


@pytest.mark.parametrize("stumbles", [False, True])
@pytest.mark.parametrize("reestimate", [False, True])
def test_leaves_everything_as_it_was(model, stumbles, reestimate):
    model.train()
    model[1].eval()
    BitDial(model).set(weights=[3, 5], activations=[6, 7])
    generator = torch.Generator().manual_seed(1)
    inputs = torch.cat([x for x, _ in data()])
    loader = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), 16, shuffle=True, generator=generator)
    modes, before = [module.training for module in model.modules()], state(model)
    randomness = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), generator.get_state()
    task = _Stumbling()
    task.calls = 0 if stumbles else -1000
    if stumbles:
        with pytest.raises(RuntimeError, match="stumbled"):
            quietly(model, loader, task=task, reestimate=reestimate)
    else:
        quietly(model, loader, task=task, reestimate=reestimate)
    assert same(state(model), before)
    assert BitDial(model).weights == [3, 5]
    assert BitDial(model).activations == [6, 7]
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), randomness[0])
    assert random.getstate() == randomness[1]
    assert np.random.get_state()[1].tolist() == randomness[2]
    assert torch.equal(generator.get_state(), randomness[3])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_printed(model, capsys):
    found = validate_random_bitwidths(model, data(), None, None, 2, [4, 8], ledger=cost(model, data()[0][0]))
    lines = capsys.readouterr().out.splitlines()
    each = found.configurations[0]
    assert (
        lines[0] == f"Config 1/2: Acc={each.accuracy:.4f}, Loss={each.loss:.4f}, Avg Bitwidth={each.average_bits:.2f}"
    )
    assert lines[1].startswith("Config 2/2: Acc=")
    assert lines[2:] == found.text().splitlines()
    assert lines[2] == "Random Bitwidths Validation Statistics:"
    accuracy = found.accuracy
    assert lines[3] == (
        f"  Accuracy: mean={accuracy.mean:.4f}, std={accuracy.std:.4f}, min={accuracy.min:.4f}, max={accuracy.max:.4f}"
    )
    assert [line.split(":")[0].strip() for line in lines[4:7]] == ["Loss", "Bitwidth", "Relative BitOps (simulated)"]
    quietly(model)
    assert capsys.readouterr().out == ""


def test_one_option_is_flat_and_the_text_says_why_there_is_no_correlation(model):
    found = quietly(model, None, None, None, 3, [8])
    assert found.bitwidths == [8, 8, 8]
    assert math.isnan(found.correlation)
    assert "undefined, as the bitwidth is constant" in found.text()
    assert found.bits == Spread(mean=8, std=0, min=8, max=8)


def test_a_criterion_is_reported_as_the_loss(model):
    calls = []

    def criterion(logits, targets):
        calls.append(len(targets))
        return functional.multi_margin_loss(logits, targets)

    batches = [*data(1), tuple(part[:5] for part in data(1)[0])]
    found = validate_simple(model, batches, criterion, verbose=False)
    model.eval()
    with torch.no_grad():
        means = [functional.multi_margin_loss(model(x), y).item() for x, y in batches]
    assert found.loss.mean == pytest.approx((16 * means[0] + 5 * means[1]) / 21, rel=1e-5)
    assert calls == [16, 5]


def test_a_batch_of_ignored_labels_does_not_spoil_the_mean_of_a_criterion(model):
    batches = [*data(1), (data(1)[0][0], torch.full((16,), -100))]
    found = validate_simple(model, batches, nn.CrossEntropyLoss(), verbose=False)
    assert found.loss.mean == pytest.approx(validate_simple(model, data(1), verbose=False).loss.mean)


def test_the_simple_one_keeps_widths_that_differ_in_weights_and_activations(model):
    BitDial(model).set(weights=[2, 8], activations=[4, 6])
    ledger = cost(model, data()[0][0])
    found = validate_simple(model, data(), ledger=ledger, verbose=False)
    expected = (6 * 16 * 2 * 4 + 16 * 3 * 8 * 6) / ((6 * 16 + 16 * 3) * 32**2)
    assert found.configurations[0].relative_bitops == pytest.approx(expected)
    assert found.configurations[0].widths == (2, 8)
    assert found.bitwidths == [5]


def test_the_simple_one_leaves_a_model_as_it_was_that_counts_its_calls(model):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.inner(x)

    counting = Counting()
    validate_simple(counting, data(), verbose=False)
    assert counting.calls == 0


def test_the_fixed_one_is_a_sweep_at_one_width(model):
    found = validate_fixed_bitwidth(model, data(), bitwidth=3, verbose=False)
    (score,) = sweep(model, data(), [3])
    assert (found.accuracies, found.losses, found.bitwidths) == ([score.accuracy], [score.loss], [3])


def test_ternary_weights_count_with_their_own_width():
    found = quietly(network(quantizer="twn"), None, None, None, 2, [4])
    assert found.bitwidths == [pytest.approx(math.log2(3), abs=1e-3)] * 2


def test_a_task_of_another_shape(model):
    class Named(Classification):
        def logits(self, model, batch):
            return super().logits(model, (batch["x"], batch["y"]))

        def score(self, model, batch):
            return Classification().score(model, (batch["x"], batch["y"]))

    plain = quietly(model)
    named = quietly(model, [{"x": x, "y": y} for x, y in data()], task=Named())
    assert named == plain


def test_a_model_that_gives_no_number_is_said_so(model):
    with torch.no_grad():
        model[3].bias.fill_(math.nan)
    found = quietly(model)
    assert math.isnan(found.loss.mean)
    assert math.isnan(found.correlation)


def test_records_survive_a_file(model):
    found = quietly(model, ledger=cost(model, data()[0][0]))
    assert type(found).model_validate_json(found.model_dump_json()) == found
    with pytest.raises(ValueError, match="frozen"):
        found.seed = 3


def test_names_of_the_configuration_file():
    assert dict(VALIDATION_FUNCTIONS) == {
        "simple": validate_simple,
        "fixed_bitwidth": validate_fixed_bitwidth,
        "random_bitwidths": validate_random_bitwidths,
    }


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"num_configs": 0}, "num_configs must be a whole number of 1 or more, got 0"),
        ({"num_configs": -2}, "num_configs must be"),
        ({"num_configs": 2.5}, "num_configs must be"),
        ({"num_configs": "4"}, "num_configs must be"),
        ({"num_configs": True}, "num_configs must be"),
        ({"bitwidth_options": []}, "at least one width"),
        ({"bitwidth_options": "248"}, "at least one width"),
        ({"bitwidth_options": 8}, "at least one width"),
        ({"bitwidth_options": None}, "at least one width"),
        ({"bitwidth_options": [2, 64]}, "in \\[1, 32\\], got 64"),
        ({"bitwidth_options": [0]}, "in \\[1, 32\\], got 0"),
        ({"bitwidth_options": [math.nan]}, "in \\[1, 32\\], got nan"),
        ({"bitwidth_options": ["4"]}, "must be a number"),
        ({"device": "abacus"}, "device must be one that torch knows"),
        ({"device": 3.5}, "device must be one that torch knows"),
        ({"device": "meta"}, "device must be where the model is, cpu, got meta"),
        ({"loss_fn": "cross_entropy"}, "loss_fn must be callable"),
        ({"loss_fn": nn.CrossEntropyLoss(reduction="none")}, "must return a mean, a 0-dim tensor, got shape \\[16\\]"),
        ({"loss_fn": lambda logits, y: 0.5}, "must return a mean, a 0-dim tensor, got float"),
        ({"loss_fn": nn.CrossEntropyLoss(), "task": Classification()}, "got both"),
        ({"task": 3}, "task must be a task with logits and score, got 3"),
        ({"loader": (batch for batch in data())}, "pass list\\(loader\\)"),
        ({"loader": []}, "at least one batch"),
        ({"loader": None}, "loader must be an iterable of batches, got NoneType"),
        ({"loader": 3}, "loader must be an iterable of batches, got int"),
        ({"loader": "batches"}, "loader must be an iterable of batches, got str"),
        ({"loader": torch.zeros(3, 16, 6)}, "loader must be an iterable of batches, got Tensor"),
        ({"recalibration_batches": 3}, "recalibration_batches must be an iterable of batches"),
        ({"recalibration_limit": 0}, "limit must be a whole number"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"seed": None}, "seed must be a whole number"),
        ({"ledger": 3}, "ledger must be that of this model.*got int"),
        ({"ledger": cost(nn.Linear(2, 2), torch.zeros(1, 2))}, "ledger must be that of this model"),
        ({"model": nn.Linear(6, 3)}, "quantized layers"),
        ({"model": "resnet"}, "must be a torch.nn.Module"),
    ],
)
def test_bad_input_is_one_sentence(model, bad, says):
    arguments = {"model": model, "loader": data(), "verbose": False} | bad
    with pytest.raises(BitdialError, match=says) as error:
        validate_random_bitwidths(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [0, 64, "8", None, math.nan, True, [8, 8]])
def test_a_bad_fixed_width_is_refused(model, bad):
    with pytest.raises(BitdialError, match="bits must be"):
        validate_fixed_bitwidth(model, data(), bitwidth=bad, verbose=False)
