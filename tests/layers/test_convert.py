"""Converting a model: the right layers, nothing silently left out, nothing changed when refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from bitdial.errors import BitdialError
from bitdial.layers import QuantConv1d, QuantConv2d, QuantizedLayer, QuantLinear, quantize, skipped_layers
from bitdial.layers.convert import find_layers, match_layers
from tests.layers.nets import Mlp, ResidualNet, images, rows


def quantized(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, QuantizedLayer)]


def test_first_and_last_stay_in_floating_point_by_default_and_are_listed() -> None:
    model = quantize(ResidualNet())
    assert quantized(model) == ["conv1", "conv2"]
    assert skipped_layers(model) == {"stem": "skipped as <first>", "fc": "skipped as <last>"}


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ((), ["stem", "conv1", "conv2", "fc"]),
        ("fc", ["stem", "conv1", "conv2"]),
        (["conv*"], ["stem", "fc"]),
        (("<first>", "conv2"), ["conv1", "fc"]),
        (("conv1", "conv?"), ["stem", "fc"]),
    ],
)
def test_skip_takes_names_and_patterns(skip: Any, left: list[str]) -> None:
    assert quantized(quantize(ResidualNet(), skip=skip)) == left


def test_a_pattern_means_everything_inside_the_module_it_names() -> None:
    model = nn.ModuleDict({"body": Mlp(), "bodyguard": nn.Linear(3, 3), "head": nn.Linear(3, 3)})
    quantize(model, skip=("body",))
    assert quantized(model) == ["bodyguard", "head"]
    assert set(skipped_layers(model)) == {"body.0", "body.2", "body.4"}


def test_kinds_widths_and_options_arrive() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Conv2d(1, 2, 3), nn.Linear(2, 2))
    quantize(model, 5, 3.5, 6, quantizer="dorefa", granularity="channel", skip=())
    assert [type(m) for m in model] == [QuantConv1d, QuantConv2d, QuantLinear]
    for layer in model:
        widths = (layer.weight_bits, layer.activation_bits, layer.gradient_bits)
        assert [w.item() for w in widths] == [5, 3.5, 6]
        assert layer.quantizer.name == "dorefa"
        assert layer.granularity == "channel"


def test_parameters_optimizer_and_old_state_dict_stay_good() -> None:
    model = Mlp()
    parameters = list(model.parameters())
    state = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    quantize(model, 4, 4, skip=())
    assert all(new is old for new, old in zip(model.parameters(), parameters, strict=True))
    model(rows()).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[2].weight, state["2.weight"])
    model.load_state_dict(state)
    assert torch.equal(model[2].weight, state["2.weight"])


def test_a_layer_used_in_several_places_stays_one_layer() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Sequential(shared), nn.Linear(4, 4))
    quantize(model, skip=())
    assert isinstance(model[0], QuantLinear)
    assert model[2] is model[0]
    assert model[3][0] is model[0]
    assert model[4] is not model[0]


def test_a_model_that_is_one_layer_is_returned_quantized() -> None:
    layer = nn.Linear(3, 2)
    model = quantize(layer, 4, 4)
    assert isinstance(model, QuantLinear)
    assert model.weight is layer.weight
    assert skipped_layers(model) == {}


def test_containers_hooks_and_modes_survive() -> None:
    model = nn.ModuleDict({"list": nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)]), "head": nn.Linear(6, 2)})
    model["list"][1].eval()
    calls: list[int] = []
    model["list"][0].register_forward_hook(lambda *_: calls.append(1))
    quantize(model, skip=())
    assert not model["list"][1].training
    model["list"][0](rows())
    assert calls == [1]


class MyLinear(nn.Linear):
    pass


OUTSIDE: dict[str, Callable[[], nn.Module]] = {
    "Conv3d has no quantized form": lambda: nn.Conv3d(1, 1, 3),
    "ConvTranspose3d has no quantized form": lambda: nn.ConvTranspose3d(1, 1, 3),
    "LazyConvTranspose2d has no shape yet: run a batch through the model first": lambda: nn.LazyConvTranspose2d(4, 3),
    "Bilinear has no quantized form": lambda: nn.Bilinear(2, 2, 2),
    "Embedding has no quantized form": lambda: nn.Embedding(4, 4),
    "LSTM has no quantized form": lambda: nn.LSTM(2, 2),
    "GRUCell has no quantized form": lambda: nn.GRUCell(2, 2),
    "MultiheadAttention has no quantized form": lambda: nn.MultiheadAttention(4, 2),
    "LazyLinear has no shape yet: run a batch through the model first": lambda: nn.LazyLinear(4),
    "MyLinear is a class of its own, whose computation may differ": lambda: MyLinear(2, 2),
    "ParametrizedLinear is a class of its own, whose computation may differ": lambda: parametrizations.weight_norm(
        nn.Linear(2, 2)
    ),
    "its weight is computed by a hook (weight_norm, spectral_norm, pruning)": lambda: prune.l1_unstructured(
        nn.Linear(2, 2), "weight", 0.5
    ),
}


@pytest.mark.parametrize("reason", OUTSIDE)
def test_nothing_is_left_out_without_a_reason(reason: str) -> None:
    odd = OUTSIDE[reason]()
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "odd": odd, "b": nn.Linear(2, 2)})
    quantize(model, skip=())
    assert model["odd"] is odd
    assert quantized(model) == ["a", "b"]
    assert skipped_layers(model)["odd"] == reason


def test_skipped_layers_of_a_copy_and_of_a_wrapped_model() -> None:
    model = quantize(ResidualNet())
    expected = skipped_layers(model)
    assert skipped_layers(copy.deepcopy(model)) == expected
    assert skipped_layers(nn.DataParallel(model)) == expected
    assert skipped_layers(torch.compile(model, backend="eager")) == expected
    expected.clear()
    assert skipped_layers(model)  # what is returned is a copy


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_transformer_layers_are_quantized_in_evaluation_too(activation: str, norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
    )
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
    quantize(model, 2, 2, skip=())
    model.eval()
    x = torch.randn(3, 5, 8)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = True
    for arguments in ({}, {"src_key_padding_mask": mask}):
        slow = model(x, **arguments).detach()
        with torch.no_grad():
            fast = model(x, **arguments)
        torch.testing.assert_close(slow, fast)


def test_the_converted_model_trains() -> None:
    torch.manual_seed(0)
    model = quantize(ResidualNet(), 4, 4, 8, skip=())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = images(16), torch.arange(16) % 5
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# --- match_layers -------------------------------------------------------------------------------------------------


def test_patterns() -> None:
    names = ["stem", "layer1.0.conv1", "layer1.0.conv2", "layer10.0.conv1", "fc"]
    assert match_layers(names, "<first>") == ["stem"]
    assert match_layers(names, "<last>") == ["fc"]
    assert match_layers(names, "*") == names
    assert match_layers(names, "layer1") == ["layer1.0.conv1", "layer1.0.conv2"]
    assert match_layers(names, "*.conv1") == ["layer1.0.conv1", "layer10.0.conv1"]
    assert match_layers(names, "fc") == ["fc"]


@pytest.mark.parametrize("pattern", ["", "conv1", "layer2", "FC", "*.weight", " fc", "<frist>", "<middle>", "fc."])
def test_a_pattern_without_a_match_is_refused_with_help(pattern: str) -> None:
    names = ["stem", "layer1.0.conv1", "fc"]
    with pytest.raises(BitdialError, match=r"^layer pattern must match a layer that can be quantized, got ") as caught:
        match_layers(names, pattern)
    assert "did you mean" in str(caught.value) or "the layers are stem, layer1.0.conv1, fc" in str(caught.value)


def test_a_typo_in_a_special_name_is_recognised() -> None:
    with pytest.raises(BitdialError, match=r"did you mean '<first>'\?"):
        match_layers(["stem", "fc"], "<frist>")


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": 0}, "bits must be in [1, 32], got 0 for weights"),
        ({"weights": "4"}, "bits must be a number in [1, 32], got '4' for weights"),
        ({"weights": [4, 4]}, "bits must be a number in [1, 32], got [4, 4] for weights"),
        ({"activations": 64}, "bits must be in [1, 32], got 64 for activations"),
        ({"activations": None}, "bits must be a number in [1, 32], got None for activations"),
        ({"gradients": -8}, "bits must be in [1, 32], got -8 for gradients"),
        ({"gradients": True}, "bits must be a number in [1, 32], got True for gradients"),
        ({"quantizer": "lqs"}, ", got 'lqs'"),
        ({"quantizer": ["uniform"]}, ", got ['uniform']"),
        ({"granularity": "layer"}, "granularity must be one of channel, tensor, group:SIZE, got 'layer'"),
        ({"skip": ("classifier",)}, "layer pattern must match a layer that can be quantized, got 'classifier'"),
        ({"skip": ("bn1",)}, "layer pattern must match a layer that can be quantized, got 'bn1'"),
        ({"skip": (nn.Linear,)}, "a layer pattern must be a text such as"),
        ({"skip": (3,)}, "a layer pattern must be a text such as"),
        ({"skip": None}, "skip must be names or patterns"),
        ({"skip": 5}, "skip must be names or patterns"),
        ({"skip": ("*",)}, "skip must leave a layer to quantize, got ['*'] which covers all 4"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_changed(arguments: dict[str, Any], message: str) -> None:
    model = ResidualNet()
    before = list(model.modules())
    with pytest.raises(BitdialError) as caught:
        quantize(model, **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(model.modules()) == before
    assert not hasattr(model, "_bitdial_skipped")


@pytest.mark.parametrize("model", ["resnet18", None, nn.Linear, torch.zeros(3), {}, [nn.Linear(2, 2)], lambda x: x])
def test_what_is_no_model_is_refused(model: Any) -> None:
    for function in (quantize, skipped_layers):
        with pytest.raises(BitdialError, match=r"^model must "):
            function(model)


def test_a_model_without_layers_is_refused_with_what_was_found() -> None:
    with pytest.raises(BitdialError, match=r"got ReLU with none"):
        quantize(nn.ReLU())
    with pytest.raises(BitdialError, match=r"got Sequential with 0: LSTM has no quantized form"):
        quantize(nn.Sequential(nn.LSTM(2, 2)))


def test_quantizing_twice_is_refused_with_what_to_do() -> None:
    with pytest.raises(BitdialError, match=r"turn its widths with BitDial\(model\)"):
        quantize(quantize(Mlp()))


def test_skipped_layers_of_a_float_model_is_an_error_not_an_empty_answer() -> None:
    with pytest.raises(BitdialError, match=r"^model must have gone through bitdial.quantize, got Mlp that has not"):
        skipped_layers(Mlp())


def test_a_caller_may_say_what_the_names_are_or_what_is_wrong_when_none_matches() -> None:
    with pytest.raises(BitdialError, match="layer pattern must match a linear layer, got 'x'; the layers are fc"):
        match_layers(["fc"], "x", "a linear layer")
    assert find_layers(["fc"], "x") == []
    assert find_layers([], "<last>") == []


def disturbed(layer: nn.Module) -> dict[str, Any]:
    """Give a layer all that a layer can have besides its weights; return what there is to be seen of it."""
    seen: dict[str, Any] = {"log": []}

    def note(name: str) -> Callable[..., None]:
        return lambda *_, **__: seen["log"].append(name)

    seen["handles"] = [
        layer.register_forward_pre_hook(note("pre")),
        layer.register_forward_hook(note("forward")),
        layer.register_full_backward_pre_hook(note("backward pre")),
        layer.register_full_backward_hook(note("backward")),
        layer.register_state_dict_pre_hook(note("state pre")),
        layer.register_state_dict_post_hook(note("state")),
        layer.register_load_state_dict_pre_hook(note("load pre")),
        layer.register_load_state_dict_post_hook(note("load")),
    ]
    layer.register_buffer("mask", torch.ones(3))
    layer.register_buffer("passing", torch.ones(2), persistent=False)
    layer.register_parameter("scale", nn.Parameter(torch.full((1,), 2.0)))
    layer.adapter = nn.Linear(2, 2)
    layer.note = "mine"
    return seen


@pytest.mark.parametrize("quantizer", ["uniform", "ttq"])
@pytest.mark.parametrize("float_layer", [nn.Linear(6, 6), nn.Conv1d(6, 6, 1), nn.Conv2d(6, 6, 1)], ids=type)
def test_all_that_a_layer_had_is_kept(float_layer: nn.Module, quantizer: str) -> None:
    layer = copy.deepcopy(float_layer)
    seen = disturbed(layer)
    held = [layer]
    model = quantize(nn.Sequential(layer, nn.ReLU()), 4, 4, quantizer=quantizer, skip=())
    assert model[0] is layer is held[0]
    assert isinstance(layer, QuantizedLayer)
    shape = (4, 6, 3, 3)[: 2 + len(getattr(layer, "kernel_size", ()))]
    model(torch.randn(shape, requires_grad=True)).sum().backward()
    state = model.state_dict()
    model.load_state_dict(state)
    assert seen["log"] == ["pre", "forward", "backward pre", "backward", "state pre", "state", "load pre", "load"]
    assert {"0.mask", "0.scale", "0.adapter.weight"} <= set(state)
    assert "0.passing" not in state
    assert layer.passing.numel() == 2
    assert layer.note == "mine"
    for handle in seen["handles"]:
        handle.remove()
    seen["log"].clear()
    model(torch.randn(shape)).sum().backward()
    model.load_state_dict(model.state_dict())
    assert not seen["log"]


def test_a_legacy_backward_hook_stays_a_legacy_one() -> None:
    model = Mlp()
    seen: list[Any] = []
    model[2].register_backward_hook(lambda layer, given, got: seen.append([g is not None for g in given]))
    quantize(model, 32, 32, skip=())
    with pytest.warns(FutureWarning, match="non-full backward hook"):
        model(rows()).sum().backward()
    assert len(seen) == 1
    with pytest.raises(RuntimeError, match="both regular backward hooks and full"):
        model[2].register_full_backward_hook(lambda *_: None)


def test_layers_that_are_used_through_a_list_are_quantized() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Mlp()
            self.order = [self.body[4], self.body[0]]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.order[0](functional.pad(self.order[1](x), (0, 0)))

    model = quantize(Listed(), 1, 32, skip=())
    other = copy.deepcopy(model)
    for parameter in other.body[0], other.body[4]:
        parameter.weight = nn.Parameter(parameter.quantized_weight().detach())
        parameter.weight_bits.fill_(32)
    assert torch.equal(model(rows()), other(rows()))


@pytest.mark.parametrize("name", ["weight_bits", "quantizer", "range_low", "granularity"])
def test_a_layer_with_something_of_that_name_is_left_with_the_reason(name: str) -> None:
    model = Mlp()
    setattr(model[2], name, "mine")
    quantize(model, skip=())
    assert skipped_layers(model) == {"2": f"it has {name} of its own"}
    assert getattr(model[2], name) == "mine"


def test_a_layer_whose_forward_was_replaced_is_left_with_the_reason() -> None:
    model = Mlp()
    inner = model[2].forward
    model[2].forward = lambda x: 2 * inner(x)
    expected = model(rows())
    quantize(model, 32, 32, skip=())
    assert skipped_layers(model) == {"2": "its forward was replaced by another function"}
    assert torch.equal(model(rows()), expected)


def test_a_model_that_is_one_layer_is_quantized_in_place() -> None:
    layer = nn.Linear(3, 3)
    assert quantize(layer, 4, 4) is layer
    assert isinstance(layer, QuantLinear)


def test_containers_that_are_called_like_layers_are_not_listed() -> None:
    class Conv2dNormActivation(nn.Sequential):
        pass

    class LinearAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

    class Convolved(nn.Module):  # computes something itself
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.ones(3, 3))
            self.norm = nn.BatchNorm2d(3)

    block = Conv2dNormActivation(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model = nn.Sequential(block, LinearAttention(), Convolved(), nn.LSTM(2, 2), nn.MultiheadAttention(2, 1))
    quantize(model, skip=())
    assert set(skipped_layers(model)) == {"2", "3", "4", "4.out_proj"}
    assert not skipped_layers(quantize(torchvision.models.mobilenet_v2(), skip=()))


@pytest.mark.parametrize("quantizer", ["uniform", "ttq"])
def test_where_one_layer_cannot_be_quantized_none_is(quantizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv2d(1, 1, 1))

    def fail(*_: Any, **__: Any) -> Any:
        raise BitdialError("no")

    monkeypatch.setattr(QuantConv2d, "like", fail)
    before = {id(m): dict(vars(m)) for m in model.modules()}
    with pytest.raises(BitdialError, match="no"):
        quantize(model, 4, 4, quantizer=quantizer, skip=())
    assert [type(m) for m in model] == [nn.Linear, nn.Conv2d]
    assert {id(m): dict(vars(m)) for m in model.modules()} == before
