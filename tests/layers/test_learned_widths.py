"""Layers that learn something for each width: one state each, which a checkpoint brings along whole."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import bitdial
from bitdial.errors import BitdialError
from bitdial.layers import BitDial, QuantConv2d, QuantizedLayer, QuantLinear, cost, quantize
from bitdial.numerics import LsqWeight
from bitdial.numerics.learned_step import LearnsPerWidth
from bitdial.training import Classification, LoopConfig, fit, make_fabric

LEARNED = ["lsq", "pact", "seq", "quest", "quest_hadamard"]
WIDTHS = [1, 1.585, 2, 3, 4, 8, 32]


def network(quantizer: str, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 4))
    return quantize(model, 4, 4, quantizer=quantizer, skip=(), **options)


def images(seed: int) -> Tensor:
    return torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    dial, losses = BitDial(model), []
    for step in steps:
        dial.set(WIDTHS[step % len(WIDTHS)])
        loss = nn.functional.cross_entropy(model(images(step)), torch.arange(6) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def outputs(model: nn.Module) -> list[Tensor]:
    model.eval()
    dial, found = BitDial(model), []
    for width in WIDTHS:
        with dial.held(width), torch.no_grad():
            found.append(model(images(99)))
    model.train()
    return found


@pytest.mark.parametrize("quantizer", LEARNED)
def test_saved_loaded_into_a_fresh_model_evaluated_and_trained_on_it_is_the_same_bit_for_bit(quantizer: str) -> None:
    model = network(quantizer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, optimizer, range(9))
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))

    fresh = network(quantizer, seed=7)
    again = torch.optim.SGD(fresh.parameters(), lr=0.05, momentum=0.9)
    fresh.load_state_dict(state[0])
    again.load_state_dict(state[1])
    for mine, theirs in zip(outputs(fresh), outputs(model), strict=True):
        assert torch.equal(mine, theirs)
    # Looking at it at every width has changed nothing, and neither has loading.
    assert all(torch.equal(value, state[0][name]) for name, value in fresh.state_dict().items())
    assert train(fresh, again, range(9, 20)) == train(model, optimizer, range(9, 20))
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize("quantizer", LEARNED)
def test_copies_and_pickles_are_the_same(quantizer: str) -> None:
    model = network(quantizer)
    train(model, torch.optim.SGD(model.parameters(), lr=0.05), range(7))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for mine, theirs in zip(outputs(other), outputs(model), strict=True):
            assert torch.equal(mine, theirs)


def test_an_unfitted_state_stays_unfitted_when_it_is_loaded_and_a_fitted_one_fitted() -> None:
    model, fresh = network("lsq"), network("lsq", seed=3)
    fresh.load_state_dict(model.state_dict())
    assert fresh[0].activation_quantizer.fitted == 0
    fresh(images(0))
    model(images(0))
    assert fresh[0].activation_quantizer.fitted == 1
    assert torch.equal(fresh[0].activation_quantizer.values, model[0].activation_quantizer.values)
    later = network("lsq", seed=4)
    later.load_state_dict(fresh.state_dict())
    before = later[0].activation_quantizer.values.clone()
    later(1000 * images(1))
    assert torch.equal(later[0].activation_quantizer.values, before)


def test_a_state_of_the_float_network_gives_scales_that_fit_its_weights() -> None:
    torch.manual_seed(5)
    plain = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    model = quantize(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), quantizer="seq", skip=())
    model.load_state_dict(plain.state_dict())
    fitting = quantize(copy.deepcopy(plain), quantizer="seq", skip=())
    for mine, theirs in zip(model, fitting, strict=True):
        assert all(map(torch.equal, mine.weight_quantizer.learned, theirs.weight_quantizer.learned))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_each_width_trains_its_own_state_and_idle_ones_rest(optimizer: Any, zeros: bool) -> None:
    model = network("lsq", widths=[2, 4, 8])
    model(images(0))
    learned = [m for m in model.modules() if isinstance(m, LearnsPerWidth)]
    assert len(learned) == 6
    more = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    descent, dial = optimizer(model.parameters(), lr=0.01, weight_decay=0.1, **more), BitDial(model)
    for width in (2, 4, 8):
        dial.set(width)
        before = [[each.clone() for each in module.learned] for module in learned]
        model(images(1)).square().sum().backward()
        bitdial.layers.rest_idle_rows(model)
        descent.step()
        for module, old in zip(learned, before, strict=True):
            changed = [not torch.equal(now, then) for now, then in zip(module.learned, old, strict=True)]
            assert changed == [width == 2, width == 4, width == 8]
        descent.zero_grad(set_to_none=not zeros)


def test_in_training_by_fit_idle_ones_rest_too() -> None:
    data = [(images(step), torch.arange(6) % 4) for step in range(4)]
    model = network("lsq", widths=[2, 8])
    before = {name: value.clone() for name, value in model.named_parameters() if "bits_8" in name}
    BitDial(model).set(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    fit(make_fabric(), model, optimizer, Classification(), data, LoopConfig(steps=6))
    assert before
    assert all(torch.equal(model.get_parameter(name), value) for name, value in before.items())


def test_widths_say_which_have_a_state() -> None:
    assert QuantLinear(3, 2, quantizer="lsq", widths=[8, 2, 32, 2]).weight_quantizer.widths == (2.0, 8.0)
    assert len(QuantLinear(3, 2, quantizer="lsq").weight_quantizer.learned) == 9
    assert len(QuantLinear(3, 2, quantizer="lsq", widths=[32]).weight_quantizer.learned) == 9
    layer = QuantLinear(3, 2, quantizer="seq", activation_quantizer="pact", widths=(4, 1.5))
    assert [name for name, _ in layer.weight_quantizer.named_parameters()] == ["bits_1_5", "bits_4"]
    assert [each.shape for each in layer.weight_quantizer.learned] == [(2,), (2,)]
    assert layer.activation_quantizer.values.shape == (2,)


@pytest.mark.slow  # tests/gpu/test_graphs.py does the same for every quantizer, on CPUs too
@pytest.mark.parametrize("quantizer", [*LEARNED, "binary", "nested"])
def test_one_training_graph_and_one_evaluation_graph_at_all_widths(quantizer: str) -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model = network(quantizer)
    compiled, dial = torch.compile(model, backend=counter), BitDial(model)
    twin = copy.deepcopy(model)
    for width in WIDTHS:
        dial.set(width)
        BitDial(twin).set(width)
        for net in (compiled, twin):
            net(images(0)).square().sum().backward()
        for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
            expected = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad  # of another width
            torch.testing.assert_close(mine.grad, expected, rtol=2e-3, atol=2e-3, msg=f"{name} at {width}")
    model.eval()
    twin.eval()
    for width in WIDTHS:
        dial.set(width)
        BitDial(twin).set(width)
        with torch.no_grad():
            torch.testing.assert_close(compiled(images(1)), twin(images(1)), rtol=1e-3, atol=1e-3)
    assert counter.frame_count == 2


class TestGroups:
    @pytest.mark.parametrize(
        "quantizer", ["uniform", "lsq", "seq", "quest", "twn", "ttq", "dorefa", "nested", "binary"]
    )
    def test_weights_of_a_group_have_a_grid_of_their_own(self, quantizer: str) -> None:
        layer = QuantLinear(12, 3, weights=3, quantizer=quantizer, granularity="group:4")
        rows = QuantLinear(4, 9, weights=3, quantizer=quantizer, granularity="channel")
        with torch.no_grad():
            rows.weight.copy_(layer.weight.view(9, 4))
        if rows.weight_quantizer is not None:
            rows.weight_quantizer.reset(rows.weight)
        assert torch.equal(layer.quantized_weight(), rows.quantized_weight().view(3, 12))
        assert layer.scale_groups == 9

    def test_a_group_is_the_longest_that_divides_a_channel(self) -> None:
        layer = QuantConv2d(3, 5, 3, weights=3, granularity="group:10")  # 27 weights a channel
        assert layer.scale_groups == 5 * 3
        assert layer.quantized_weight().view(15, 9)[4].unique().numel() <= 8
        assert QuantConv2d(3, 5, 3, granularity="group:1000").scale_groups == 5
        assert QuantLinear(7, 2, granularity="group:4").scale_groups == 14

    def test_the_ledger_counts_their_scales(self) -> None:
        model = quantize(nn.Sequential(nn.Linear(12, 3)), granularity="group:4", skip=())
        assert cost(model, torch.zeros(1, 12)).rows[0].scales == 9

    def test_gradients_and_training(self) -> None:
        model = network("lsq", granularity="group:9")
        losses = train(model, torch.optim.SGD(model.parameters(), lr=0.02), range(30))
        assert losses[-1] < losses[0]

    @pytest.mark.parametrize("given", ["group", "group:", "group:0", "group:-3", "group:4.5", "groups:4", "group:x", 4])
    def test_another_text_is_refused(self, given: Any) -> None:
        with pytest.raises(BitdialError, match="granularity must be one of channel, tensor, group:SIZE, got"):
            quantize(nn.Sequential(nn.Linear(4, 4)), granularity=given)


class TestRotation:
    def test_at_full_width_the_product_is_that_of_the_float_layer(self) -> None:
        for layer, x in (
            (nn.Linear(24, 5), torch.randn(3, 24)),
            (nn.Conv2d(8, 6, 3, padding=1), torch.randn(2, 8, 5, 5)),
            (nn.Conv2d(8, 8, 3, groups=2), torch.randn(2, 8, 5, 5)),
            (nn.Conv1d(4, 6, 3), torch.randn(2, 4, 9)),
            (nn.Conv2d(3, 6, 3), torch.randn(2, 3, 5, 5)),
            (nn.Conv2d(4, 6, 3), torch.randn(4, 5, 5)),
            (nn.Linear(6, 2), torch.randn(6)),
        ):
            plain = copy.deepcopy(layer)
            model = quantize(nn.Sequential(layer), 32, 32, quantizer="quest_hadamard", skip=())
            torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-5)

    def test_an_outlier_is_spread_over_its_block(self) -> None:
        torch.manual_seed(0)
        w = torch.randn(16, 64) * 0.1
        w[:, 5] = 3.0
        x = torch.randn(50, 64)
        errors = {}
        for name in ("quest", "quest_hadamard"):
            layer = QuantLinear(64, 16, weights=3, activations=32, quantizer=name, bias=False)
            with torch.no_grad():
                layer.weight.copy_(w)
                errors[name] = (layer(x) - x @ w.t()).square().mean().item()
        assert errors["quest_hadamard"] < errors["quest"] / 2

    def test_who_reads_the_weight_gets_it_in_its_own_coordinates(self) -> None:
        layer = QuantLinear(16, 4, weights=8, quantizer="quest_hadamard")
        torch.testing.assert_close(layer.quantized_weight(), layer.weight, rtol=0.1, atol=0.02)
        assert len(layer.grid_weight()[0].unique()) <= 16
        assert not torch.allclose(layer.grid_weight(), layer.weight, atol=0.02)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"widths": []}, "widths must be a list"),
        ({"widths": 4}, "widths must be a list"),
        ({"widths": "4"}, "widths must be a list"),
        ({"widths": [0, 4]}, r"bits must be in \[1, 32\], got 0.* for widths"),
        ({"widths": ["4"]}, "bits must be a number"),
        ({"widths": [float("nan")]}, r"bits must be in \[1, 32\]"),
        ({"nested": True, "quantizer": "lsq"}, "nested grids are those of the weight quantizer uniform, got lsq"),
        ({"nested": True, "weight_quantizer": "twn"}, "nested grids .* got twn"),
        ({"quantizer": "lsg"}, "did you mean 'lsq'"),
        ({"activation_quantizer": "quset"}, "did you mean 'quest'"),
        ({"activation_quantizer": "seq"}, "activation_quantizer must be one of"),
    ],
)
def test_bad_options_are_refused_in_a_sentence_and_change_nothing(options: dict[str, Any], text: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(BitdialError, match=text):
        quantize(model, **options)
    assert not any(isinstance(module, QuantizedLayer) for module in model)


def test_ternary_is_another_name_and_pact_stands_with_dorefa_weights() -> None:
    assert QuantLinear(2, 2, quantizer="ternary").quantizer.name == "twn"
    layer = QuantLinear(2, 2, weights=3, quantizer="pact")
    assert isinstance(layer.activation_quantizer, bitdial.numerics.PactActivation)
    other = QuantLinear(2, 2, weights=3, quantizer="dorefa")
    with torch.no_grad():
        other.weight.copy_(layer.weight)
    assert torch.equal(layer.quantized_weight(), other.quantized_weight())


def test_reset_parameters_fits_the_scales_anew() -> None:
    layer = QuantLinear(8, 4, quantizer="lsq")
    with torch.no_grad():
        layer.weight_quantizer.learned_at(4).fill_(5.0)
    layer.reset_parameters()
    assert all(map(torch.equal, layer.weight_quantizer.learned, LsqWeight(layer.weight).learned))
