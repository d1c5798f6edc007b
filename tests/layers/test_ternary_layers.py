"""Ternary weights inside layers: scales that learn, the dial, the ledger, states and copies."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers import BitDial, QuantConv2d, QuantizedLayer, QuantLinear, cost, quantize
from bitdial.numerics import TERNARY_BITS, LearnedWeight
from bitdial.training import OptimizerConfig, build_optimizer
from tests.layers.nets import ResidualNet, images

TERNARY = ["twn", "absmean", "ttq", "ternary_lsq"]
LEARNED = ["ttq", "ternary_lsq"]


def ternary_net(quantizer: str, **options: float | str) -> nn.Module:
    torch.manual_seed(0)
    return quantize(ResidualNet(), quantizer=quantizer, **options)  # type: ignore[arg-type]


def quantized_layers(model: nn.Module) -> list[QuantizedLayer]:
    return [module for module in model.modules() if isinstance(module, QuantizedLayer)]


def scales(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if ".weight_quantizer." in name}


@pytest.mark.parametrize("quantizer", TERNARY)
@pytest.mark.parametrize("activations", [8, 32])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_a_training_step_reaches_every_parameter(quantizer: str, activations: int, granularity: str) -> None:
    model = ternary_net(quantizer, activations=activations, granularity=granularity)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(2):
        optimizer.zero_grad()
        model(images(seed=seed)).square().mean().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert parameter.isfinite().all()
    assert len(scales(model)) == {"ttq": 4, "ternary_lsq": 2}.get(quantizer, 0)
    for parameter in scales(model).values():
        assert parameter.shape == ((8,) if granularity == "channel" else (1,))
    for layer in quantized_layers(model):
        for group in layer.quantized_weight() if granularity == "channel" else [layer.quantized_weight()]:
            assert len(group.unique()) <= 3


@pytest.mark.parametrize("quantizer", TERNARY)
def test_the_dial_knows_two_settings(quantizer: str) -> None:
    model = ternary_net(quantizer, weights=4)
    dial = BitDial(model)
    assert dial.weights == pytest.approx([TERNARY_BITS] * 2)
    layer = quantized_layers(model)[0]
    ternary = layer.quantized_weight()
    for bits in (1, 1.6, 8, 31):
        dial.set(bits)
        assert dial.weights == pytest.approx([TERNARY_BITS] * 2)
        assert dial.activations == pytest.approx([bits] * 2)
        assert torch.equal(layer.quantized_weight(), ternary)
    with dial.held(32):
        assert dial.weights == [32.0] * 2
        assert torch.equal(layer.quantized_weight(), layer.weight)
    assert dial.weights == pytest.approx([TERNARY_BITS] * 2)
    with pytest.raises(BitdialError, match=r"bits must be in \[1, 32\], got 0"):
        dial.set(weights=0)


@pytest.mark.parametrize("quantizer", TERNARY)
def test_at_32_bits_the_model_is_the_float_model_bit_for_bit(quantizer: str) -> None:
    model = ternary_net(quantizer)
    torch.manual_seed(0)
    plain = ResidualNet()
    BitDial(model).set(32)
    for net in (model, plain):
        net.train()
    assert torch.equal(model(images()), plain(images()))


@pytest.mark.parametrize(("quantizer", "per_layer"), [("twn", 8), ("absmean", 1), ("ttq", 2), ("ternary_lsq", 8)])
def test_the_ledger_counts_ternary_weights_at_1_585_bits_and_their_scales_once(quantizer: str, per_layer: int) -> None:
    model = ternary_net(quantizer, weights=8, activations=8)
    ledger, plain = cost(model, images(1)), cost(ResidualNet(), images(1))
    rows = [row for row in ledger.rows if row.quantized]
    assert [row.weights for row in rows] == [576, 576]
    assert [row.scales for row in rows] == [per_layer] * 2
    saved = sum(4 * 576 - math.ceil(576 * TERNARY_BITS / 8) - 4 * per_layer for _ in rows)
    assert ledger.size_bytes() == plain.size_bytes() - saved
    assert ledger.size_bytes(4) == ledger.size_bytes()  # no width but 32 makes them larger or smaller
    assert ledger.size_bytes(32) == plain.size_bytes()
    ternary, eight = ledger.step_bitops(), ledger.step_bitops(weights=8)
    assert ternary == eight
    macs = sum(row.macs for row in rows)
    assert plain.step_bitops().forward - ternary.forward == pytest.approx(macs * (32 * 32 - TERNARY_BITS * 8), rel=1e-6)


@pytest.mark.parametrize("quantizer", LEARNED)
def test_a_state_of_the_float_model_fits_the_scales_to_its_weights(quantizer: str) -> None:
    model = ternary_net(quantizer)
    torch.manual_seed(5)
    trained = ResidualNet()
    report = model.load_state_dict({name: 3 * tensor for name, tensor in trained.state_dict().items()})
    assert not report.missing_keys
    for layer in quantized_layers(model):
        assert isinstance(layer.weight_quantizer, LearnedWeight)
        fresh = layer.weight_quantizer.initial(layer.weight)
        for name, parameter in layer.weight_quantizer.named_parameters():
            assert torch.equal(parameter, fresh[name])


@pytest.mark.parametrize("quantizer", LEARNED)
def test_learned_scales_are_part_of_the_state(quantizer: str) -> None:
    model, other = ternary_net(quantizer), ternary_net(quantizer)
    with torch.no_grad():
        for parameter in scales(model).values():
            parameter.mul_(1.25)
    other.load_state_dict(model.state_dict())
    for name, parameter in scales(other).items():
        assert torch.equal(parameter, scales(model)[name])
    uniform = quantize(ResidualNet())
    with pytest.raises(RuntimeError, match="weight_quantizer"):  # another quantizer's state is not mistaken for it
        other.load_state_dict(uniform.state_dict())


@pytest.mark.parametrize("quantizer", TERNARY)
def test_copies_and_pickles_have_scales_of_their_own(quantizer: str) -> None:
    model = ternary_net(quantizer).eval()
    out = model(images())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images()), out)
        with torch.no_grad():
            for parameter in scales(twin).values():
                parameter.mul_(2)
        assert torch.equal(model(images()), out)


@pytest.mark.parametrize("quantizer", TERNARY)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_in_another_dtype(quantizer: str, dtype: torch.dtype) -> None:
    model = ternary_net(quantizer).to(dtype)
    model(images().to(dtype)).square().mean().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    for layer in quantized_layers(model):
        assert layer.quantized_weight().dtype == dtype


@pytest.mark.parametrize("quantizer", LEARNED)
def test_weight_decay_spares_learned_scales_when_asked_to(quantizer: str) -> None:
    model = ternary_net(quantizer)
    optimizer = build_optimizer(model, OptimizerConfig(decay_norm_and_bias=False))
    spared = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {id(p) for p in scales(model).values()} <= spared


@pytest.mark.parametrize("quantizer", TERNARY)
@pytest.mark.parametrize("build", [lambda **o: QuantLinear(9, 4, **o), lambda **o: QuantConv2d(1, 4, 3, **o)])
def test_a_layer_of_its_own_is_ternary_from_the_start(quantizer: str, build: Callable[..., QuantizedLayer]) -> None:
    layer = build(weights=2, quantizer=quantizer)
    assert layer.weight_bits.item() == pytest.approx(TERNARY_BITS)
    assert f"{quantizer}: weights=1.58496" in repr(layer)
    for channel in layer.quantized_weight():
        assert 2 <= len(channel.unique()) <= 3


@pytest.mark.parametrize("quantizer", TERNARY)
def test_one_graph_serves_ternary_and_unquantized(quantizer: str) -> None:
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    model = ternary_net(quantizer)
    compiled = torch.compile(model, backend=count, fullgraph=True)
    dial = BitDial(model)
    for bits in (2, 32, 8):
        dial.set(bits)
        compiled(images()).sum().backward()
    assert len(graphs) == 1
    torch._dynamo.reset()
