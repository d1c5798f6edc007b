"""Layers and whole networks on packed weights give what the trained ones give."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bitdial as bd
from bitdial.errors import BitdialError
from bitdial.export import save_packed
from bitdial.export.calibration import ActivationGrid, calibrated
from bitdial.models import build_model
from bitdial.models.networks import cifar_resnet
from bitdial.recipes.saved_model import SavedModel
from bitdial.runtime import Network, load
from bitdial.runtime.gpu import why_no_triton
from bitdial.runtime.gpu.layers import TritonLayer
from bitdial.runtime.gpu.products import encoded
from bitdial.runtime.substitution import substituted


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_the_trial_has_the_right_sums() -> None:
    assert why_no_triton("cpu") == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("zero", [0, 100, 255])
def test_codes_are_those_of_the_grid(zero: int, dtype: torch.dtype) -> None:
    grid = ActivationGrid(0.03, zero, 256, -zero * 0.03, (255 - zero) * 0.03)
    halves = (torch.arange(-260.0, 260.0) + 0.5) * 0.03  # between two codes, and beyond the ends
    for x in (torch.randn(3, 5, 7, 6) * 4, halves, torch.tensor([1e30, -1e30, 0.0]), torch.zeros(0, 3)):
        x = x.to(dtype)
        found, shifted = encoded(x, grid)
        expected = (x.float() * (1.0 / grid.scale)).round().clamp(-zero, 255 - zero) + zero
        assert shifted == zero - 128
        assert torch.equal(found.int() + 128, expected.int())


def test_codes_keep_the_order_of_memory() -> None:
    grid = ActivationGrid(0.05, 20, 200, -1.0, 8.95)
    base = torch.randn(4, 6, 8, 10)
    views = (
        base.to(memory_format=torch.channels_last),
        base[:, ::2],
        base.transpose(1, 3),
        base[:1].expand(3, 6, 8, 10),
    )
    for x in views:
        assert torch.equal(encoded(x, grid)[0], encoded(x.contiguous(), grid)[0])
    assert encoded(views[0], grid)[0].is_contiguous(memory_format=torch.channels_last)


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(20, 9), (6, 20)),
    "linear of tokens": (lambda: nn.Linear(20, 9, bias=False), (2, 3, 20)),
    "convolution": (lambda: nn.Conv2d(6, 10, 3, 2, 1), (2, 6, 7, 7)),
    "groups": (lambda: nn.Conv2d(6, 10, 3, 1, 2, 2, groups=2, bias=False), (2, 6, 7, 7)),
    "channels that stand alone": (lambda: nn.Conv2d(6, 6, 3, 1, "same", groups=6), (2, 6, 7, 7)),
    "one dimension": (lambda: nn.Conv1d(6, 10, 4, 2, 1), (2, 6, 15)),
    "one dimension, same": (lambda: nn.Conv1d(6, 10, 4, padding="same"), (2, 6, 15)),
}
HOW: list[dict[str, Any]] = [
    {"quantizer": "ternary"},
    {"weights": 2},
    {"quantizer": "lsq", "weights": 4},
    {"weights": 8},
]


PAIRS = [
    pytest.param(name, how, marks=() if (i + k) % len(HOW) == 0 else pytest.mark.slow)
    for i, name in enumerate(LAYERS) for k, how in enumerate(HOW)
]  # fmt: skip
"""Every kind of layer at some width, and every width; the others are for patient people."""


@pytest.mark.parametrize(("name", "how"), PAIRS)
def test_a_layer_gives_what_the_quantized_one_gives(name: str, how: dict[str, Any]) -> None:
    make, shape = LAYERS[name]
    model, x = nn.Sequential(make()), torch.randn(shape)
    bd.quantize(model, activations=8, skip=(), **how)
    model.train()(x)
    static = calibrated(model)
    network, stayed = substituted(static, TritonLayer, 1)
    assert not stayed
    assert isinstance(network[0], TritonLayer)  # type: ignore[index]
    with torch.no_grad():
        expected, y = static(x), network(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def alike(y: Tensor, expected: Tensor, difference: float) -> None:
    """A value that falls between two codes may go either way, and what follows with it."""
    assert ((y - expected).norm() / expected.norm()).item() < difference
    assert torch.equal(y.argmax(1), expected.argmax(1))


def ready(model: nn.Module, **how: Any) -> tuple[nn.Module, Tensor]:
    """A network for images of 8 x 8 on static grids, and one of them."""
    bd.quantize(model, **{"activations": 8, **how})
    x = torch.randn(4, 3, 8, 8)
    model.train()(x)
    return calibrated(model), x[:1]


def built(name: str, **options: Any) -> nn.Module:
    return build_model(name, num_classes=10, in_channels=3, image_size=8, **options)


NETWORKS: list[Any] = [
    (lambda: cifar_resnet(8, 10, 3, 8, width=6), {"quantizer": "ternary"}),
    pytest.param(lambda: built("tiny_cnn"), {"weights": 4}, marks=pytest.mark.slow),
    pytest.param(lambda: built("resnet20"), {"quantizer": "ternary"}, marks=pytest.mark.slow),
    pytest.param(lambda: built("mobilenetv2", width=0.25), {"weights": 8}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("make", "how"), NETWORKS, ids=["resnet8", "tiny_cnn", "resnet20", "mobilenetv2"])
def test_a_network_gives_what_the_trained_one_gives(make: Callable[[], nn.Module], how: dict[str, Any]) -> None:
    model, x = ready(make(), **how)
    made = Network(model, way="triton")
    assert "kernels of bitdial in Triton" in str(made.chosen)
    assert not made.chosen.stayed
    replaced = [each for each in made._call.modules() if isinstance(each, TritonLayer)]  # type: ignore[attr-defined]
    assert len(replaced) == sum(isinstance(each, bd.layers.QuantizedLayer) for each in model.modules())
    with torch.no_grad():
        expected = model(x)
    found = made(x.numpy())
    assert isinstance(found, np.ndarray)
    alike(torch.from_numpy(found), expected, 0.02)


def test_any_number_of_threads_may_call_a_network() -> None:
    model, x = ready(built("tiny_cnn"), weights=4)
    made = Network(model, way="triton")
    expected = made(x)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(y, expected) for y in pool.map(made, [x] * 3))


def test_a_network_without_quantized_layers_is_refused() -> None:
    with pytest.raises(BitdialError, match="nothing of the network is quantized"):
        Network(nn.Linear(3, 4), way="triton")


def test_layers_that_no_kernel_has_are_named() -> None:
    model, x = ready(built("tiny_cnn"), weights=4)
    first = next(each for each in model.modules() if isinstance(each, bd.layers.QuantConv2d))
    first.padding_mode = "circular"
    made = Network(model, way="triton")
    assert "repeats values" in str(made.chosen)
    with torch.no_grad():
        alike(made(x), model(x), 0.02)


def test_a_packed_file_is_loaded_onto_the_way(tmp_path: Path) -> None:
    model = bd.quantize(build_model("tiny_cnn", num_classes=10, in_channels=1, image_size=8), weights=4, activations=8)
    x = torch.randn(2, 1, 8, 8)
    model.train()(x)
    told: dict[str, Any] = {
        "recipe": "ternary", "arm": "ternary", "seed": 0, "model": "tiny_cnn",
        "quantize": {"weights": 4, "activations": 8}, "num_classes": 10, "in_channels": 1, "image_size": 8,
        "mean": [0.5], "std": [0.25],
    }  # fmt: skip
    described = SavedModel(**told).model_dump(mode="json", exclude_defaults=True)
    path = save_packed(model.eval(), tmp_path / "tiny.safetensors", description=described)
    made = load(path, way="triton")
    assert made.chosen.way == "triton"
    with torch.no_grad():
        alike(made(x), calibrated(model)(x), 0.02)
    with pytest.raises(BitdialError, match="cannot take inputs of the shape"):
        made(torch.zeros(2, 3, 8, 8))
