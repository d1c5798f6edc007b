"""Whole networks give the classes of the network as it was trained, on every way and from any number of threads."""

from __future__ import annotations

import gc
import threading
import warnings
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

import bitdial as bd
from bitdial.errors import BitdialError
from bitdial.export.calibration import calibrated
from bitdial.models import build_model
from bitdial.runtime import Network, network
from bitdial.runtime.network import why_no_kernels
from bitdial.runtime.peers import in_floats
from bitdial.runtime.substitution import OneDnnLayer, onednn_saturates

needs_kernels = pytest.mark.skipif(bool(why_no_kernels()), reason=f"no kernels here: {why_no_kernels()}")
needs_onednn = pytest.mark.skipif(onednn_saturates() is None, reason="PyTorch has no oneDNN here")


class Transformer(nn.Module):
    """Two layers of attention over 12 tokens of 24 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Attention() for _ in range(2)])
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class Attention(nn.Module):
    """One layer, with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.qkv, self.out = nn.LayerNorm(24), nn.Linear(24, 72), nn.Linear(24, 24)
        self.after, self.up, self.act, self.down = nn.LayerNorm(24), nn.Linear(24, 96), nn.GELU(), nn.Linear(96, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.view(-1, 12, 2, 12).transpose(1, 2) for part in self.qkv(self.before(x)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 12, 24)
        x = x + self.out(mixed)
        return x + self.down(self.act(self.up(self.after(x))))


def ready(name: str, examples: int = 8, **how: Any) -> tuple[nn.Module, Tensor]:
    """A network on static grids, and a batch."""
    torch.manual_seed(0)
    is_transformer = name == "transformer"
    model = Transformer() if is_transformer else build_model(name, num_classes=10, in_channels=3, image_size=32)
    bd.quantize(model, **{"activations": 8, **how})
    x = torch.randn(examples, 12, 24) if is_transformer else torch.randn(examples, 3, 32, 32)
    model.train()(x)
    return calibrated(model), x


def alike(y: Tensor, expected: Tensor, difference: float) -> None:
    """A value that falls between two codes may go either way, and what follows with it."""
    assert ((y - expected).norm() / expected.norm()).item() < difference
    assert (y.argmax(1) == expected.argmax(1)).float().mean() >= 0.9


CASES: dict[str, tuple[str, dict[str, Any], float]] = {
    "resnet20 ternary": ("resnet20", {"quantizer": "ternary"}, 0.02),
    "resnet20 lsq": ("resnet20", {"quantizer": "lsq", "weights": 4, "activations": 4}, 0.05),
    "resnet20 absmean": ("resnet20", {"quantizer": "absmean"}, 0.02),
    "resnet20 by tensor": ("resnet20", {"weights": 2, "granularity": "tensor"}, 0.02),
    "mobilenetv2 4 bits": ("mobilenetv2", {"weights": 4}, 0.02),
    "tiny_cnn 8 bits": ("tiny_cnn", {"weights": 8}, 1e-3),
    "mlp 4 bits": ("mlp", {"weights": 4}, 1e-3),
    "transformer ternary": ("transformer", {"quantizer": "ternary"}, 0.02),
}


@needs_kernels
@pytest.mark.parametrize("case", CASES)
def test_networks_agree(case: str) -> None:
    name, how, difference = CASES[case]
    model, x = ready(name, **how)
    made = Network(model, threads=2)
    assert made.chosen.way == "kernels"
    assert not made.chosen.stayed
    with torch.no_grad():
        expected = model(x)
    for batch in (x, x[:1], x.repeat(3, *[1] * (x.dim() - 1))):
        alike(
            made(batch),
            expected[: len(batch)] if len(batch) == 1 else expected.repeat(len(batch) // len(x), 1),
            difference,
        )


@needs_kernels
@pytest.mark.slow
def test_a_resnet18_agrees_as_well_as_it_agrees_with_itself() -> None:
    model, x = ready("resnet18", 64, quantizer="ternary")
    with torch.no_grad():
        expected = model(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.backends.mkldnn.flags(enabled=False):  # the same sums in another order
                other = model(x)
    noise = ((other - expected).norm() / expected.norm()).item()
    alike(Network(model)(x), expected, max(2 * noise, 1e-3))


@needs_onednn
def test_onednn_takes_the_place_of_kernels() -> None:
    model, x = ready("resnet20", quantizer="ternary")
    with patch.object(network, "why_no_kernels", lambda: "there is no C compiler"):
        made = Network(model)
    assert made.chosen.way == "onednn"
    assert "there is no C compiler" in str(made.chosen)
    with torch.no_grad():
        alike(made(x), model(x), 0.02)


@needs_onednn
@pytest.mark.skipif(onednn_saturates() is not True, reason="this processor has exact products of 8 bits")
def test_weights_that_onednn_would_get_wrong_stay_in_floating_point() -> None:
    model, _ = ready("tiny_cnn", weights=8)
    with pytest.raises(BitdialError, match="leave way out"):
        Network(model, way="onednn")
    made = Network(ready("tiny_cnn", weights=5)[0], way="onednn")
    assert any(isinstance(each, OneDnnLayer) for each in made._call.modules())
    assert made.chosen.stayed == ()


def test_fake_quantization_is_left_where_there_is_nothing_else() -> None:
    model, x = ready("tiny_cnn", weights=4)
    with patch.object(network, "why_no_kernels", lambda: "no"), patch.object(network, "onednn_saturates", lambda: None):
        made = Network(model)
    assert made.chosen.way == "fake"
    with torch.no_grad():
        assert torch.equal(made(x), model(x))


def test_a_network_that_is_not_quantized_is_computed_as_it_is() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    made = Network(model)
    assert "nothing of the network is quantized" in str(made.chosen)
    x = torch.randn(2, 4)
    with torch.no_grad():
        assert torch.equal(made(x), model(x))


@needs_kernels
def test_arrays_come_back_as_arrays() -> None:
    model, x = ready("tiny_cnn", weights=4)
    made = Network(model)
    y = made(x.numpy())
    assert isinstance(y, np.ndarray)
    assert np.array_equal(y, made(x).numpy())
    assert np.array_equal(made(x.double().numpy()), y)
    assert np.array_equal(made(np.asfortranarray(x.numpy())), y)
    assert made(x[:0]).shape == (0, 10)


WRONG: dict[str, Any] = {
    "channels": torch.zeros(2, 1, 32, 32),
    "dimensions": torch.zeros(2, 32),
    "a number": torch.tensor(1.0),
    "a list": [[1.0]],
    "text": np.array(["a"]),
    "objects": np.array([None]),
    "nothing": None,
    "no batch": torch.zeros(3, 32, 32)[0, 0],
    "no pixels": torch.zeros(2, 3, 0, 32),
    "complex": np.zeros((2, 3, 32, 32), complex),
}


@needs_kernels
@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_are_refused_in_a_sentence(name: str) -> None:
    made = Network(ready("tiny_cnn", weights=4)[0])
    with pytest.raises(BitdialError, match="inputs"):
        made(WRONG[name])
    assert made(torch.zeros(1, 3, 32, 32)).shape == (1, 10)  # nothing is lost


@needs_kernels
def test_any_number_of_threads_may_call_one_network() -> None:
    model, x = ready("resnet20", 16, quantizer="ternary")
    made = Network(model, threads=2)
    expected = [made(x[i : i + 1 + i % 3]) for i in range(8)]
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(12):
            if not torch.equal(made(x[number : number + 1 + number % 3]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


@needs_kernels
def test_threads_share_a_plan_that_none_of_them_had() -> None:
    made = Network(ready("tiny_cnn", weights=4)[0])
    found: list[Tensor] = []
    start = threading.Barrier(8)

    def call() -> None:
        start.wait()
        found.append(made(torch.ones(2, 3, 32, 32)))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 8
    assert all(torch.equal(each, found[0]) for each in found)


def grown(made: Network, x: Tensor, calls: int) -> int:
    """Bytes that the process has more after so many calls."""
    for _ in range(200):
        made(x)
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in range(calls):
        made(x)
    gc.collect()
    return psutil.Process().memory_info().rss - before


def small() -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    model = bd.quantize(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), quantizer="ternary", skip=())
    x = torch.randn(1, 8)
    model.train()(x)
    return Network(calibrated(model)), x


@needs_kernels
def test_calls_leave_nothing_behind() -> None:
    assert grown(*small(), 4_000) < 2**20


@needs_kernels
@pytest.mark.slow
def test_a_million_calls_leave_nothing_behind() -> None:
    assert grown(*small(), 1_000_000) < 2**20


@needs_kernels
def test_many_shapes_of_inputs_keep_no_more_than_some_plans() -> None:
    made = Network(ready("tiny_cnn", weights=4)[0])
    for size in range(16, 40):
        assert made(torch.zeros(1, 3, size, size)).shape == (1, 10)
    assert len(made._plans) == network.PLANS


@needs_kernels
def test_weights_in_floating_point_are_not_kept() -> None:
    model, x = ready("resnet20", quantizer="ternary")
    made = Network(model)
    made(x)
    held = sum(each.numel() for each in made._call.parameters())
    assert held < 0.1 * sum(each.numel() for each in model.parameters())


def test_the_same_network_in_floats_has_its_weights_on_the_grid() -> None:
    model, x = ready("tiny_cnn", weights=3)
    plain = in_floats(model)
    weights = {name: each for name, each in plain.named_modules() if isinstance(each, nn.Conv2d)}
    for name, layer in model.named_modules():
        if isinstance(layer, bd.layers.QuantConv2d):
            assert type(weights[name]) is nn.Conv2d
            assert torch.equal(weights[name].weight, layer.quantized_weight())
    assert plain(x).shape == (8, 10)
