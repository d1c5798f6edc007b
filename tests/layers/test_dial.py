"""The dial: reads and writes every width, all or nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.layers import BitDial, quantize
from tests.layers.nets import Mlp, ResidualNet, rows


def dial(gradients: float | None = 8) -> BitDial:
    return BitDial(quantize(Mlp(), 8, 8, gradients, skip=()))


def state(d: BitDial) -> list[list[float]]:
    return [d.weights, d.activations, d.gradients]


def test_names_are_the_models_in_its_order() -> None:
    d = BitDial(quantize(ResidualNet()))
    assert d.names == ("conv1", "conv2")
    assert len(d) == 2


def test_bits_turn_weights_and_activations_and_leave_gradients() -> None:
    d = dial()
    d.set(4)
    assert state(d) == [[4] * 3, [4] * 3, [8] * 3]


def test_parts_take_precedence_over_bits() -> None:
    d = dial()
    d.set(4, activations=6, gradients=16)
    assert state(d) == [[4] * 3, [6] * 3, [16] * 3]
    d.set(weights=2)
    assert state(d) == [[2] * 3, [6] * 3, [16] * 3]


def test_a_list_gives_one_width_to_each_layer() -> None:
    d = dial()
    d.set([2, 3.5, 4], gradients=(8, 16, 32))
    assert state(d) == [[2, 3.5, 4], [2, 3.5, 4], [8, 16, 32]]


def test_a_pattern_turns_only_what_it_means() -> None:
    d = dial()
    d.set(4, layers="2")
    d.set(weights=[5], layers="<last>")
    d.set(activations=[1, 2, 3], layers="*")
    assert state(d) == [[8, 4, 5], [1, 2, 3], [8, 8, 8]]


def test_the_widths_live_in_the_model() -> None:
    model = quantize(Mlp(), skip=())
    one, two = BitDial(model), BitDial(model)
    one.set(3)
    assert two.weights == [3] * 3
    assert model.state_dict()["2.weight_bits"].item() == 3
    other = BitDial(copy.deepcopy(model))
    other.set(5)
    assert one.weights == [3] * 3


def test_turning_changes_what_the_model_computes_and_back() -> None:
    model = quantize(Mlp(), 8, 8, skip=())
    d, x = BitDial(model), rows()
    at8 = model(x)
    d.set(2)
    assert not torch.allclose(model(x), at8)
    d.set(8)
    assert torch.equal(model(x), at8)


def test_turning_writes_the_same_buffers() -> None:
    model = quantize(Mlp(), skip=())
    before = {name: buffer.data_ptr() for name, buffer in model.named_buffers()}
    BitDial(model).set([1, 16, 32])
    assert {name: buffer.data_ptr() for name, buffer in model.named_buffers()} == before


def test_held_turns_and_turns_back_also_after_an_error() -> None:
    d = dial()
    d.set([2, 3, 5], gradients=6)
    before = state(d)
    with d.held(4, gradients=32) as same:
        assert same is d
        assert state(d) == [[4] * 3, [4] * 3, [32] * 3]
        with d.held(weights=7, layers="0"):
            assert d.weights == [7, 4, 4]
        assert d.weights == [4] * 3
    assert state(d) == before
    with pytest.raises(KeyError), d.held(1):
        raise KeyError
    assert state(d) == before
    with pytest.raises(BitdialError), d.held(99):
        pass
    assert state(d) == before


def test_a_teacher_may_be_held_between_forward_and_backward() -> None:
    model = quantize(Mlp(), 4, 4, skip=())
    d, x = BitDial(model), rows()
    y = model(x)
    with torch.no_grad(), d.held(32):
        teacher = model(x)
    (y - teacher).square().sum().backward()
    assert model[2].weight.grad is not None


@pytest.mark.parametrize("gradients", [None, 8])
def test_state_dict_round_trip(gradients: float | None) -> None:
    d = dial(gradients)
    d.set([2, 3.25, 32], activations=[1, 5.5, 16])
    saved = d.state_dict()
    assert all(type(v) is float for part in saved.values() for v in part.values())
    other = dial(gradients)
    other.load_state_dict(saved)
    assert state(other) == state(d)


def test_gradients_read_32_where_they_are_not_quantized_and_may_be_set_to_it() -> None:
    d = dial(None)
    assert d.gradients == [32] * 3
    d.set(4, gradients=32)
    assert d.weights == [4] * 3


def test_wrapped_models_have_the_same_names() -> None:
    model = quantize(Mlp(), skip=())
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        d = BitDial(wrapped)
        assert d.names == ("0", "2", "4")
        d.set(3)
        assert BitDial(model).weights == [3] * 3


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Linear(2, 2))
        self.add_module("0", nn.Linear(2, 2))


def test_no_layer_is_lost_in_a_model_with_a_child_called_module() -> None:
    assert BitDial(quantize(Holder(), skip=())).names == ("module.0", "0")


def test_repr_has_a_line_for_each_layer() -> None:
    d = dial()
    d.set(4, activations=3.5)
    assert repr(d).count("weights=4, activations=3.5") == 3


# --- bad input ----------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"bits": 0}, 'bits must be in [1, 32], got 0 for layer "0"; give a width from 1 to 16, or 32 for unquantized'),
    ({"bits": 33}, "bits must be in [1, 32], got 33"),
    ({"bits": float("nan")}, "bits must be in [1, 32], got nan"),
    ({"bits": "4"}, "bits must be a number in [1, 32], got '4'"),
    ({"bits": True}, "bits must be a number in [1, 32], got True"),
    ({"bits": torch.tensor(4.0)}, "bits must be a number in [1, 32], got tensor(4.)"),
    ({"bits": {"0": 4}}, "bits must be a number in [1, 32], got {'0': 4}"),
    ({"bits": [4, 4]}, "a list of bits must have one for each of the 3 layers, got 2"),
    ({"bits": []}, "a list of bits must have one for each of the 3 layers, got 0"),
    ({"bits": [4, 4, 0]}, 'bits must be in [1, 32], got 0 for layer "4"'),
    ({"bits": [4, 4, [4]]}, "bits must be a number in [1, 32], got [4]"),
    ({"bits": [4, None, 4]}, "bits must be a number in [1, 32], got None"),
    ({"bits": 4, "gradients": 0.9}, "bits must be in [1, 32], got 0.9"),
    ({"bits": 4, "activations": [1, 2]}, "one for each of the 3 layers, got 2"),
    ({"bits": 4, "layers": "5"}, "layer pattern must match a layer that can be quantized, got '5'"),
    ({"bits": 4, "layers": "conv*"}, "got 'conv*'; the layers are 0, 2, 4"),
    ({"bits": 4, "layers": 2}, "a layer pattern must be a text such as"),
    ({"bits": [4, 4, 4], "layers": "2"}, "one for each of the 1 layers, got 3"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_bad_value_changes_nothing_and_says_why(arguments: dict[str, Any], message: str) -> None:
    d = dial()
    before = state(d)
    with pytest.raises(BitdialError) as caught:
        d.set(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert state(d) == before
    with pytest.raises(BitdialError), d.held(**arguments):
        pytest.fail("a bad value got in")
    assert state(d) == before


def test_gradients_of_a_model_built_without_them_are_refused_and_nothing_else_is_turned() -> None:
    d = dial(None)
    with pytest.raises(BitdialError, match=r'gradients of layer "0" must stay at 32 bits, got 8; build the model with'):
        d.set(4, gradients=8)
    assert d.weights == [8] * 3


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"weights": {}},
        None,
        [],
        "state",
        {"weights": [4, 4, 4], "activations": {}, "gradients": {}},
        {"weights": {"0": 4, "2": 4}, "activations": {}, "gradients": {}},
        {part: {"0": 4.0, "2": 4.0, "4": 4.0, "6": 4.0} for part in ("weights", "activations", "gradients")},
        {part: {"0": 4.0, "2": 4.0, "4": 0.0} for part in ("weights", "activations", "gradients")},
        {part: {"0": 4.0, "2": "4", "4": 4.0} for part in ("weights", "activations", "gradients")},
    ],
)
def test_a_bad_state_changes_nothing(bad: Any) -> None:
    d = dial()
    before = state(d)
    with pytest.raises(BitdialError, match=r"^(dial state must have weights for the layers 0, 2, 4, got|bits must be)"):
        d.load_state_dict(bad)
    assert state(d) == before


@pytest.mark.parametrize("model", ["resnet18", None, nn.Linear, torch.zeros(2), {}, 3, [], object(), Mlp(), nn.ReLU()])
def test_a_dial_needs_a_quantized_model(model: Any) -> None:
    with pytest.raises(BitdialError, match=r"^model must (be a torch.nn.Module|have quantized layers), got "):
        BitDial(model)
