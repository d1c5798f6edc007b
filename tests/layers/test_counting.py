"""The ledger of a small net, counted by hand; the model comes back untouched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers import BitDial, Ledger, cost, quantize
from tests.layers.nets import Mlp, ResidualNet, images


class Small(nn.Module):
    """3x8x8 -> stem 8 channels -> grouped 3x3, stride 2, 8 channels at 4x4 -> a 1x1 used twice -> 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.shared = nn.Conv2d(8, 8, 1, bias=False)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.grouped(torch.relu(self.stem(x)))))
        x = self.shared(torch.relu(self.shared(x)))
        return self.fc(x.mean((2, 3)))


MACS = {
    "stem": 8 * 8 * 8 * (3 * 9),
    "grouped": 8 * 4 * 4 * (2 * 9),
    "shared": 2 * 8 * 4 * 4 * 8,
    "fc": 8 * 5,
}
WEIGHTS = {"stem": 8 * 27, "grouped": 8 * 18, "shared": 64, "fc": 40}


def small() -> nn.Module:
    return quantize(Small(), 4, 3, 8)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_macs_by_hand_whatever_the_batch(batch: int) -> None:
    ledger = cost(small(), images(batch))
    assert {row.name: row.macs for row in ledger.rows} == MACS
    assert {row.name: row.weights for row in ledger.rows} == WEIGHTS
    assert ledger.macs == sum(MACS.values())
    assert [type(row.macs) for row in ledger.rows] == [int] * 4
    assert ledger.uncounted == ()


def test_a_float_model_is_counted_alike_at_32() -> None:
    ledger = cost(Small(), images(1))
    assert {row.name: row.macs for row in ledger.rows} == MACS
    assert {row.kind for row in ledger.rows} == {"Conv2d", "Linear"}
    assert ledger.step_bitops().forward == sum(MACS.values()) * 32 * 32
    assert not any(row.quantized for row in ledger.rows)


def test_rows_say_what_each_layer_is() -> None:
    stem, grouped, shared, fc = cost(small(), images(1)).rows
    assert (stem.kind, stem.quantized, stem.weight_bits, stem.activation_bits, stem.gradient_bits) == (
        *("Conv2d", False),
        *(32, 32, 32),
    )
    assert (grouped.kind, grouped.quantized, grouped.weight_bits, grouped.activation_bits, grouped.gradient_bits) == (
        *("QuantConv2d", True),
        *(4, 3, 8),
    )
    assert [row.needs_input_gradient for row in (stem, grouped, shared, fc)] == [False, True, True, True]
    assert (stem.parameters, grouped.parameters, fc.parameters) == (8 * 27 + 8, 8 * 18, 45)
    assert (grouped.scales, shared.scales) == (8, 8)  # one range for each output channel


def test_the_first_layer_needs_no_input_gradient_even_when_quantized_and_frozen_ones_do() -> None:
    model = quantize(Mlp(), skip=())
    model[2].requires_grad_(False)
    ledger = cost(model, torch.zeros(1, 6))
    assert [row.needs_input_gradient for row in ledger.rows] == [False, True, True]


def test_conv1d_and_sequences() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3, dilation=2), nn.Flatten(), nn.Linear(4 * 6, 3))
    assert [row.macs for row in cost(model, torch.zeros(2, 2, 10)).rows] == [4 * 6 * 2 * 3, 72]
    tokens = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 4))
    ledger = cost(tokens, torch.zeros(3, 6, dtype=torch.long))
    assert [row.macs for row in ledger.rows] == [6 * 5 * 4]
    assert ledger.uncounted == ()  # a look-up multiplies nothing


def test_what_is_not_counted_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
    ledger = cost(model, torch.zeros(2, 3, 4))
    assert ledger.uncounted == ("1",)
    assert "not counted: 1" in ledger.table()
    attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    assert cost(attention, torch.zeros(2, 3, 4)).uncounted == ("self_attn", "self_attn.out_proj")


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.spare = nn.Linear(3, 2), nn.Linear(4, 2), nn.Linear(9, 9)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left(input=left) + self.right(right)


@pytest.mark.parametrize(
    "example", [(torch.zeros(2, 3), torch.zeros(2, 4)), {"right": torch.zeros(2, 4), "left": torch.zeros(2, 3)}]
)
@pytest.mark.parametrize("prepare", [lambda m: m, lambda m: quantize(m, skip=())])
def test_several_inputs_by_place_or_by_name(example: Any, prepare: Any) -> None:
    ledger = cost(prepare(TwoInputs()), example)
    assert {row.name: row.macs for row in ledger.rows} == {"left": 6, "right": 8}
    assert ledger.uncounted == ("spare",)  # never reached


def test_wrapped_models_have_the_dials_names() -> None:
    model = small()
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        ledger = cost(wrapped, images(1))
        assert {row.name: row.macs for row in ledger.rows} == MACS


def test_rows_come_in_the_dials_order_whatever_the_order_of_use() -> None:
    model = TwoInputs()
    model.forward = lambda x: model.left(model.spare(x)[:, :3]) + model.right(x[:, :4])  # type: ignore[method-assign]
    quantize(model, skip=())
    ledger = cost(model, torch.zeros(1, 9))
    assert tuple(row.name for row in ledger.rows) == BitDial(model).names


def test_the_model_is_untouched() -> None:
    model = small()
    model(images())  # ranges and statistics that could be changed
    model.norm.eval()
    model.fc.requires_grad_(False)
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    before = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    needs = {name: p.requires_grad for name, p in model.named_parameters()}
    random_state = torch.get_rng_state()
    model.register_forward_hook(lambda *_: torch.rand(3))
    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    cost(model, images())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: p.requires_grad for name, p in model.named_parameters()} == needs
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == hooks
    assert torch.equal(torch.get_rng_state(), random_state)
    assert (model.stem.weight.grad == 1).all()
    assert model.fc.weight.grad is None


def test_the_model_is_untouched_after_an_error_too() -> None:
    model = small()
    with pytest.raises(RuntimeError):
        cost(model, torch.zeros(1, 5, 8, 8))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_it_is_the_same_inside_inference_mode_and_no_grad() -> None:
    model = small()
    expected = cost(model, images(2))
    with torch.inference_mode():
        assert cost(model, images(2)) == expected
    with torch.no_grad():
        assert cost(model, images(2)) == expected


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "example",
    [
        None,
        3,
        "image",
        (),
        (1, 3, 8, 8),
        [1, 3, 8, 8],
        {},
        {"x": 3},
        torch.tensor(3.0),
        torch.zeros(0, 3, 8, 8),
        object(),
    ],
)
def test_an_example_without_an_example_is_refused(example: Any) -> None:
    with pytest.raises(
        BitdialError, match=r"^example_input must hold a tensor with a batch of at least one, got "
    ) as e:
        cost(ResidualNet(), example)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("count", ["CPT", "layers", "", None, 3, True, [], {}, b"cpt", "cpt "])
def test_an_unknown_count_is_refused(count: Any) -> None:
    with pytest.raises(BitdialError, match=r"^count must be 'layer' or 'cpt', got "):
        cost(ResidualNet(), images(1), count=count)


@pytest.mark.parametrize("model", ["resnet18", None, nn.Linear, {}, 3])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(BitdialError, match=r"^model must be a torch.nn.Module, got "):
        cost(model, images(1))


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(BitdialError, match=r"^model must use Linear, Conv1d, .* layers, got ReLU where"):
        cost(nn.ReLU(), images(1))


def test_the_result_is_a_ledger() -> None:
    assert isinstance(cost(ResidualNet(), images(1)), Ledger)
