"""Weights and activations quantized apart, and activations whose grid is learned."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitdial import BitDial, quantize, reestimate_batch_norm
from bitdial.errors import BitdialError
from bitdial.export import load_packed, save_packed
from bitdial.layers import QuantConv2d, QuantizedLayer, QuantLinear
from bitdial.numerics import (
    ACTIVATION_QUANTIZERS,
    QUANTIZERS,
    ActivationQuantizer,
    Quantizer,
    fake_quantize,
    register,
    register_activations,
    uniform_weight,
)
from bitdial.numerics import quantizers as module


class LearnedClip(nn.Module):
    """Values up to a learned end, on a grid from 0 to it (as PACT: arXiv 1805.06085, equation 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.end = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, bits: Tensor) -> Tensor:
        clipped = torch.minimum(x.relu(), self.end)  # its gradient reaches the end where x lies above
        return torch.where(bits >= 32, x, fake_quantize(clipped, clipped.new_zeros(()), self.end.detach(), bits))


@pytest.fixture
def clip() -> Iterator[str]:
    """A learned activation quantizer, known for one test."""
    register_activations(ActivationQuantizer("test_clip", make=LearnedClip))
    yield "test_clip"
    del module._ACTIVATIONS["test_clip"]


def network() -> nn.Module:
    torch.manual_seed(0)
    hidden = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*hidden, nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))


X = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("weights", [name for name, each in QUANTIZERS.items() if not each.rotates])
@pytest.mark.parametrize("activations", ["uniform", "dorefa"])
def test_each_pair_is_each_part_of_the_two(weights: str, activations: str) -> None:
    torch.manual_seed(0)
    pair = QuantLinear(6, 4, weights=3, activations=3, weight_quantizer=weights, activation_quantizer=activations)
    alone = QuantLinear(6, 4, weights=3, activations=3, quantizer=weights)
    other = QuantLinear(6, 4, weights=32, activations=3, quantizer=activations)
    with torch.no_grad():
        for layer in (alone, other):
            layer.weight.copy_(pair.weight)
            layer.bias.copy_(pair.bias)
        if alone.weight_quantizer is not None:
            alone.weight_quantizer.load_state_dict(pair.weight_quantizer.state_dict())
        other.weight.copy_(alone.quantized_weight())
    x = torch.rand(7, 6) * 1.5
    assert torch.equal(pair.quantized_weight(), alone.quantized_weight())
    assert torch.equal(pair(x), other(x))
    assert pair.granularity == alone.granularity


def test_the_quantizer_sets_both_and_each_part_may_differ() -> None:
    both = quantize(network(), quantizer="dorefa")
    one = quantize(network(), quantizer="dorefa", weight_quantizer="twn")
    other = quantize(network(), activation_quantizer="dorefa")
    first = [next(m for m in net.modules() if isinstance(m, QuantizedLayer)) for net in (both, one, other)]
    names = [(layer.quantizer.name, layer.activation.name) for layer in first]
    assert names == [("dorefa", "dorefa"), ("twn", "dorefa"), ("uniform", "dorefa")]
    assert "uniform/dorefa: " in repr(other)
    assert BitDial(one).weights == pytest.approx([1.585] * len(BitDial(one)), abs=1e-3)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({"weight_quantizer": "unifrom"}, "quantizer must be one of .*did you mean 'uniform'"),
        ({"activation_quantizer": "dorefra"}, "activation_quantizer must be one of .*did you mean 'dorefa'"),
        ({"activation_quantizer": "twn"}, "activation_quantizer must be one of uniform, dorefa"),
        ({"activation_quantizer": 3}, "activation_quantizer must be one of"),
        ({"weight_quantizer": ["twn"]}, "quantizer must be one of"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_changed(named: dict[str, str], sentence: str) -> None:
    model = network()
    with pytest.raises(BitdialError, match=sentence):
        quantize(model, **named)  # type: ignore[arg-type]
    assert not any(isinstance(layer, QuantizedLayer) for layer in model.modules())


class TestLearned:
    def test_the_learned_grid_is_used_and_trained(self, clip: str) -> None:
        model = quantize(network(), 8, 3, activation_quantizer=clip, skip=())
        ends = [module.activation_quantizer.end for module in model.modules() if isinstance(module, QuantizedLayer)]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        before = [end.item() for end in ends]
        for _ in range(3):
            optimizer.zero_grad()
            model(3 * X).square().mean().backward()
            optimizer.step()
        assert all(end.grad is not None for end in ends)
        assert [end.item() for end in ends] != before

    def test_values_are_those_of_the_module_by_hand(self, clip: str) -> None:
        layer = QuantLinear(4, 3, weights=32, activations=2, activation_quantizer=clip)
        x = torch.tensor([[-1.0, 0.4, 1.2, 9.0]])
        # 4 levels from 0 to 2: 0, 2/3, 4/3, 2
        wanted = nn.functional.linear(torch.tensor([[0.0, 2 / 3, 4 / 3, 2.0]]), layer.weight, layer.bias)
        torch.testing.assert_close(layer(x), wanted)
        layer.activation_bits.fill_(32)
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))

    def test_the_dial_turns_it_and_a_state_holds_it(self, clip: str) -> None:
        model = quantize(network(), activation_quantizer=clip, skip=())
        with torch.no_grad():
            model[0].activation_quantizer.end.fill_(0.7)
        other = quantize(network(), activation_quantizer=clip, skip=())
        assert not torch.equal(model(X), other(X))
        other.load_state_dict(model.state_dict())
        model.eval(), other.eval()
        BitDial(other).set(activations=2)
        assert not torch.equal(model(X), other(X))
        BitDial(other).set(activations=8)
        assert torch.equal(model(X), other(X))

    def test_a_state_of_the_float_network_leaves_it_as_it_is(self, clip: str) -> None:
        model = quantize(network(), activation_quantizer=clip, skip=())
        with torch.no_grad():
            model[0].activation_quantizer.end.fill_(0.7)
        model.load_state_dict(network().state_dict())
        assert model[0].activation_quantizer.end.item() == pytest.approx(0.7)

    def test_one_compiled_graph_for_every_width(self, clip: str) -> None:
        layer = QuantConv2d(2, 4, 3, weights=4, activations=4, activation_quantizer=clip)
        plain = copy.deepcopy(layer)
        torch._dynamo.reset()
        frames = torch._dynamo.utils.counters
        frames.clear()
        layer.compile(backend="aot_eager")
        for bits in (2, 3, 4, 8):
            for each in (layer, plain):
                each.activation_bits.fill_(bits)
            torch.testing.assert_close(layer(X), plain(X))
        assert frames["stats"]["unique_graphs"] == 1

    def test_batch_norm_is_re_estimated_with_it(self, clip: str) -> None:
        model = quantize(network(), activation_quantizer=clip)
        reestimate_batch_norm(model, [X])
        assert model[1].num_batches_tracked.item() == 1

    def test_packed_and_loaded_it_is_the_same(self, clip: str, tmp_path: Path) -> None:
        model = quantize(network(), 4, 4, activation_quantizer=clip).eval()
        path = save_packed(model, tmp_path / "net.safetensors")
        same = load_packed(path, quantize(network(), 4, 4, activation_quantizer=clip)).eval()
        assert torch.equal(model(X), same(X))
        with pytest.raises(BitdialError, match="has activations test_clip in the file and None in the model"):
            load_packed(path, quantize(network(), 4, 4))


class TestRegistration:
    def test_a_new_quantizer_is_known_by_its_name_alone(self) -> None:
        register(Quantizer("test_mine", uniform_weight, "tensor"))
        try:
            model = quantize(network(), quantizer="test_mine")
            assert model(X).shape == (5, 3)
            with pytest.raises(BitdialError, match="'test_mine' already"):
                register(Quantizer("test_mine", uniform_weight, "tensor"))
        finally:
            del module._WEIGHTS["test_mine"]

    def test_a_name_is_taken_once(self) -> None:
        assert {"uniform", "dorefa"} <= ACTIVATION_QUANTIZERS.keys()
        with pytest.raises(BitdialError, match="'dorefa' already"):
            register_activations(ActivationQuantizer("dorefa"))
