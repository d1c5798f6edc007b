"""A network on static grids with zero on them, and its weights as small whole numbers."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitdial as bd
from bitdial.errors import BitdialError
from bitdial.export import load_packed, save_packed
from bitdial.export.calibration import ActivationGrid, WeightCodes, activation_grid, calibrated, weight_codes
from bitdial.layers import QuantConv2d, QuantConvTranspose2d, QuantizedLayer, QuantLinear
from tests.export.models import Net, build, images

WHOLE = ["uniform", "dorefa", "twn", "absmean", "ternary_lsq", "lsq", "pact", "seq", "binary", "quest", "nested"]
"""Weight quantizers whose values are whole numbers of one step."""


def layers(model: nn.Module) -> list[QuantizedLayer]:
    return [each for each in model.modules() if isinstance(each, QuantizedLayer)]


def dequantized(found: WeightCodes, layer: QuantizedLayer) -> Tensor:
    """What the codes say, in the layout of the weight."""
    rows = layer.outputs_first(found.codes.float())
    return layer.as_weight(rows * found.scale.view(-1, *(1 for _ in rows.shape[1:])))


def on_grid(x: Tensor, grid: ActivationGrid) -> Tensor:
    """What ONNX's QuantizeLinear and DequantizeLinear make of x."""
    assert grid.zero_point is not None
    scale = torch.tensor(grid.scale)
    codes = ((x / scale).round() + grid.zero_point).clamp(0, grid.levels - 1)
    return (codes - grid.zero_point) * scale


@pytest.mark.parametrize("bits", [1, math.log2(3), 2, 3, 4, 7, 8])
@pytest.mark.parametrize("quantizer", WHOLE)
def test_codes_times_scale_are_the_weight(quantizer: str, bits: float) -> None:
    model = calibrated(build(quantizer, weights=bits), [images()])
    for layer in layers(model):
        found, weight = weight_codes(layer), layer.quantized_weight().detach()
        if quantizer == "nested" and bits == 8:
            assert isinstance(found, str)
            assert "signed byte" in found
            continue
        assert isinstance(found, WeightCodes), found
        assert found.codes.dtype == torch.int8
        assert found.codes.shape == weight.shape
        assert found.scale.shape == (len(layer.outputs_first(weight)),)
        assert bool((found.scale > 0).all())
        assert torch.allclose(dequantized(found, layer), weight, rtol=2e-6, atol=0)
        assert bool((found.codes % 2 != 0).all()) or not found.odd


def test_ternary_codes_are_minus_one_zero_and_one() -> None:
    found = weight_codes(layers(calibrated(build("twn"), [images()]))[0])
    assert isinstance(found, WeightCodes)
    assert set(found.codes.unique().tolist()) == {-1, 0, 1}


def test_two_bits_without_a_zero_are_odd_codes() -> None:
    found = weight_codes(layers(calibrated(build("uniform", weights=2), [images()]))[0])
    assert isinstance(found, WeightCodes)
    assert found.odd
    assert set(found.codes.unique().tolist()) == {-3, -1, 1, 3}


def test_eight_bits_without_a_zero_take_255_values_and_the_model_stays() -> None:
    model = build("uniform", weights=8)
    before = copy.deepcopy(model.state_dict())
    made = calibrated(model, [images()])
    assert {round(2 ** layer.width("weight_bits")) for layer in layers(made)} == {255}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("layer", [QuantConv2d(4, 6, 3, groups=2), QuantConvTranspose2d(4, 6, 3, groups=2)])
def test_scales_are_of_output_channels_in_every_layout(layer: Any) -> None:
    layer = type(layer)(4, 6, 3, groups=2, weights=3)
    found = weight_codes(layer.eval())
    assert isinstance(found, WeightCodes)
    assert found.scale.shape == (6,)
    assert torch.allclose(dequantized(found, layer), layer.quantized_weight(), rtol=2e-6, atol=0)


def test_codes_of_a_packed_file_are_the_same(tmp_path: Any) -> None:
    model = build("twn")
    path = save_packed(model, tmp_path / "net.safetensors")
    loaded = load_packed(path, build("twn", seed=3)).eval()
    for mine, theirs in zip(layers(model), layers(loaded), strict=True):
        one, other = weight_codes(mine), weight_codes(theirs)
        assert isinstance(one, WeightCodes)
        assert isinstance(other, WeightCodes)
        assert torch.equal(one.codes, other.codes)
        assert torch.equal(one.scale, other.scale)


@pytest.mark.parametrize(
    ("quantizer", "options", "reason"),
    [
        ("ttq", {}, "not whole numbers of one step"),
        ("quest_hadamard", {}, "rotates"),
        ("uniform", {"weights": 32}, "stands at 32 bits"),
        ("uniform", {"weights": 12}, "signed byte"),
        ("uniform", {"granularity": "group:9"}, "several steps"),
    ],
)
def test_a_weight_that_cannot_be_held_so_says_why(quantizer: str, options: Any, reason: str) -> None:
    found = weight_codes(layers(build(quantizer, trained=False, **options))[0])
    assert isinstance(found, str)
    assert reason in found


@pytest.mark.parametrize("activations", ["uniform", "dorefa", "lsq", "pact"])
@pytest.mark.parametrize("bits", [math.log2(3), 2, 4, 8, 12])
def test_the_layer_computes_on_the_grid_that_is_told(activations: str, bits: float) -> None:
    model = build("uniform", trained=False, activations=bits, activation_quantizer=activations)
    made = calibrated(model, [images(1), images(2)])
    for layer in layers(made):
        grid = activation_grid(layer)
        assert isinstance(grid, ActivationGrid), grid
        assert grid.zero_point is not None
        assert grid.levels == round(2**bits)
        assert (grid.levels - 1 - grid.zero_point) * grid.scale == pytest.approx(grid.high, rel=1e-5, abs=1e-9)
        twin = QuantLinear(1, 1, bias=False, activations=bits, activation_quantizer=activations).eval()
        twin.load_state_dict(
            {k: v for k, v in layer.state_dict().items() if k.startswith(("range", "activation"))}, strict=False
        )
        nn.init.ones_(twin.weight)
        x = torch.linspace(1.5 * grid.low - 1, 1.5 * grid.high + 1, 997).view(-1, 1)
        assert torch.allclose(twin(x), on_grid(x, grid), rtol=1e-5, atol=1e-6 * grid.scale)
        assert not twin(torch.zeros(1, 1)).item()  # zero is on the grid


def test_the_running_range_of_training_is_kept_up_to_a_step() -> None:
    model = build("uniform")
    for layer, made in zip(layers(model), layers(calibrated(model)), strict=True):
        grid = activation_grid(made)
        assert isinstance(grid, ActivationGrid)
        assert abs(grid.high - max(layer.range_high.item(), 0)) <= grid.scale
        assert abs(grid.low - min(layer.range_low.item(), 0)) <= grid.scale


def test_the_range_of_calibration_is_the_average_over_batches() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    bd.quantize(model, activations=8, skip=[])
    batches = [torch.tensor([[-1.0, 0, 0, 3]]), (torch.tensor([[-3.0, 0, 0, 1]]), "labels")]
    grid = activation_grid(layers(calibrated(model.train(), batches))[0])
    assert isinstance(grid, ActivationGrid)
    assert grid.low == pytest.approx(-2, abs=grid.scale)
    assert grid.high == pytest.approx(2, abs=grid.scale)
    assert model.training


def test_each_call_has_its_own_grid() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + self.fc(100 * x)

    model = bd.quantize(Twice(), activations=8, skip=[])
    layers(model)[0].keep_ranges(2)
    layer = layers(calibrated(model, [torch.randn(8, 4)]))[0]
    one, other = activation_grid(layer, 0), activation_grid(layer, 1)
    assert isinstance(one, ActivationGrid)
    assert isinstance(other, ActivationGrid)
    assert other.scale == pytest.approx(100 * one.scale, rel=1e-3)


def test_two_levels_on_both_sides_of_zero_stay() -> None:
    model = bd.quantize(nn.Sequential(nn.Linear(4, 4)), activations=1, skip=[])
    grid = activation_grid(layers(calibrated(model, [torch.tensor([[-2.0, 0, 1, 2]])]))[0])
    assert grid == ActivationGrid(4.0, None, 2, -2.0, 2.0)


@pytest.mark.parametrize(("kind", "reason"), [("token", "new grid for every input"), ("quest", "new grid")])
def test_grids_of_every_token_are_refused_by_name(kind: str, reason: str) -> None:
    found = activation_grid(layers(calibrated(build(activation_quantizer=kind, trained=False)))[0])
    assert isinstance(found, str)
    assert kind in found
    assert reason in found


def test_inputs_at_32_bits_have_no_grid() -> None:
    assert activation_grid(layers(build(activations=32))[0]) is None


def test_inputs_at_20_bits_are_too_fine() -> None:
    found = activation_grid(layers(build(activations=20))[0])
    assert isinstance(found, str)
    assert "16" in found


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (None, "calibration batches are needed"),
        ([], "at least one"),
        (torch.zeros(2, 2, 5, 5), "iterable of batches"),
        ("images", "iterable of batches"),
        (3, "iterable of batches"),
        ([torch.full((2, 2, 5, 5), math.nan)], "finite"),
    ],
)
def test_batches_that_tell_no_range(batches: Any, message: str) -> None:
    with pytest.raises(BitdialError, match=message):
        calibrated(build(trained=False), batches)


def test_a_layer_that_no_batch_reaches_is_named() -> None:
    model = build(trained=False)
    model.spare = QuantLinear(3, 3, activations=8)
    with pytest.raises(BitdialError, match="spare"):
        calibrated(model, [images()])


def test_what_is_no_model() -> None:
    with pytest.raises(BitdialError, match=r"torch\.nn\.Module"):
        calibrated("model.pt", [images()])  # type: ignore[arg-type]


def test_not_more_batches_than_asked_for() -> None:
    def endless() -> Any:
        while True:
            yield images()

    assert isinstance(calibrated(build(trained=False), endless(), limit=2), Net)
