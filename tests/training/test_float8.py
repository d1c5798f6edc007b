"""float8 layers, emulated: which layers become ones, and that a policy really changes what their products are."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode

import bitdial as bd
from bitdial.errors import BitdialError
from bitdial.training.mixed_precision import apply_policies, convert_to_float8, remove_policies
from bitdial.training.step import float8
from bitdial.training.step.formats import FLOAT8
from bitdial.training.step.policy_layers import is_float8_layer

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
NARROW = (torch.float8_e4m3fn, torch.float8_e5m2)

needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="the extra float8 (torchao) is not installed"
)
without_float8_gpu = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9), reason="this GPU computes in float8"
)


class Mlp(nn.Sequential):
    """Linear layers of 32x16, 32x32, 10x32: "0", "2", "4"; the last does not divide by 16."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


def batch(seed: int = 0) -> Tensor:
    return torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))


class Casts(TorchDispatchMode):
    """Counts the casts to float8."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += isinstance(out, Tensor) and out.dtype in NARROW and func.name() == "aten::_to_copy"
        return out


def casts(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """Casts to float8 in the forward and in the backward pass."""
    with Casts() as forward:
        loss = model(x).float().square().sum()
    with Casts() as backward:
        loss.backward()
    return forward.count, backward.count


def results(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and the gradients of input and weight for a given gradient of the output."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype))
    weight = next(layer.parameters())
    assert x.grad is not None
    assert weight.grad is not None
    return y.detach(), x.grad, weight.grad.clone()


# --- conversion ---------------------------------------------------------------------------------------------------


@needs_torchao
def test_layers_that_divide_by_16_are_converted_and_each_other_one_has_its_reason() -> None:
    class Own(nn.Linear):
        pass

    model = nn.ModuleDict(
        {
            "first": nn.Linear(16, 32),
            "normed": parametrizations.weight_norm(nn.Linear(16, 16)),
            "masked": prune.identity(nn.Linear(16, 16), "weight"),
            "lazy": nn.LazyLinear(16),
            "own": Own(16, 16),
            "conv": nn.Conv2d(16, 16, 1),
            "attention": nn.MultiheadAttention(16, 2),
            "odd": nn.Linear(20, 16),
            "wide": nn.Linear(16, 16).double(),
            "body": nn.Sequential(nn.Linear(32, 48)),
            "last": nn.Linear(48, 16),
        }
    )
    done = convert_to_float8(model, skip=("<first>", "last"), emulate=True)
    assert done.converted == ("body.0",)
    assert done.skipped == {
        "first": "skipped as <first>",
        "normed": "ParametrizedLinear is a class of its own, whose computation may differ",
        "masked": "its weight is computed by a hook (weight_norm, spectral_norm, pruning)",
        "lazy": "LazyLinear has no shape yet: run a batch through the model first",
        "own": "Own is a class of its own, whose computation may differ",
        "attention.out_proj": "NonDynamicallyQuantizableLinear is a class of its own, whose computation may differ",
        "odd": "its weight is 16 x 20; both must divide by 16",
        "wide": "its weight is float64; float8 starts from float32 or less",
        "last": "skipped as last",
    }
    assert [name for name, module in model.named_modules() if is_float8_layer(module)] == ["body.0"]


@needs_torchao
def test_quantized_layers_stay_quantized() -> None:
    model = bd.quantize(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)), 4, 4)
    done = convert_to_float8(model, emulate=True)
    assert done.converted == ("0", "2")
    assert done.skipped == {"1": "QuantLinear is quantized to a grid of its own"}
    assert isinstance(model[1], bd.QuantLinear)


@needs_torchao
@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_parameters_hooks_mode_and_state_dict_stay(recipe: Any) -> None:
    model = Mlp().eval()
    parameters, keys, calls = list(model.parameters()), list(model.state_dict()), list[str]()
    model[0].weight.requires_grad_(False)
    model[0].register_forward_hook(lambda *_: calls.append("hook"))
    done = convert_to_float8(model, recipe=recipe, emulate=True)
    assert done.converted == ("0", "2")
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == keys
    assert not any(module.training for module in model.modules())
    model(batch())
    assert calls == ["hook"]
    assert isinstance(model[0], nn.Linear)


@needs_torchao
def test_the_layer_stays_the_same_object_with_all_that_it_had() -> None:
    model = lone_layers(16, 16, 16, 16)
    layer, log = model[0], list[str]()
    layer.register_full_backward_hook(lambda *_: log.append("backward"))
    layer.register_state_dict_post_hook(lambda *_: log.append("state"))
    layer.register_load_state_dict_pre_hook(lambda *_: log.append("load"))
    layer.register_buffer("mask", torch.ones(3))
    layer.note = "mine"
    model[1].forward = lambda x: x
    model[2].config = "mine"
    before = set(vars(convert_alone())) - set(vars(nn.Linear(16, 16)))
    assert before <= set(float8._ADDED)
    done = convert_to_float8(model, emulate=True)
    assert done.skipped == {"1": "its forward was replaced by another function", "2": "it has config of its own"}
    assert model[0] is layer
    assert is_float8_layer(layer)
    model(batch().requires_grad_()).sum().backward()
    model.load_state_dict(model.state_dict())
    assert log == ["backward", "state", "load"]
    assert "0.mask" in model.state_dict()
    assert layer.note == "mine"


@needs_torchao
def test_a_model_that_is_one_layer_is_converted() -> None:
    layer = convert_alone()
    assert is_float8_layer(layer)
    assert layer(batch()).shape == (len(batch()), 16)


@needs_torchao
def test_a_layer_in_two_places_stays_one_layer() -> None:
    model = nn.Module()
    model.a = nn.Sequential(nn.Linear(16, 16))
    model.b = nn.Sequential(model.a[0])
    done = convert_to_float8(model, emulate=True)
    assert done.converted == ("a.0",)
    assert model.a[0] is model.b[0]
    assert is_float8_layer(model.b[0])


@needs_torchao
def test_torchs_transformer_calls_its_float8_layers_in_evaluation() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 1).eval().requires_grad_(False)
    assert convert_to_float8(model, emulate=True).converted == ("layers.0.linear1", "layers.0.linear2")
    with Casts() as counted:
        model(torch.randn(2, 8, 16))
    assert counted.count == 4


@needs_torchao
@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_training_in_float8_lowers_the_loss_and_rounds_all_three_products(recipe: Any) -> None:
    torch.manual_seed(0)
    model = Mlp()
    convert_to_float8(model, recipe=recipe, emulate=True)
    assert casts(model, batch().requires_grad_())[0] == 4
    assert casts(model, batch().requires_grad_())[1] > 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    target = torch.arange(16) % 10
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch()), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# --- policies on float8 layers ------------------------------------------------------------------------------------


@needs_torchao
@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
@pytest.mark.parametrize(("later", "dtype"), [("bfloat16", BF16), ("float16", F16), ("float32", F32)])
def test_from_its_step_on_the_layer_is_the_plain_one_on_the_same_weight(recipe: Any, later: str, dtype: Any) -> None:
    plain = Mlp()
    model = copy.deepcopy(plain)
    convert_to_float8(model, recipe=recipe, emulate=True)
    applied = apply_policies(model, {"*": {0: "float8", 5: later}})
    assert applied.dtypes() == {"": BF16, "0": FLOAT8, "1": BF16, "2": FLOAT8, "3": BF16, "4": BF16}
    assert min(casts(model, batch().requires_grad_())) > 0
    applied.set_step(5)
    assert set(applied.dtypes().values()) == {dtype}
    assert casts(model, batch().requires_grad_()) == (0, 0)
    with torch.autocast("cpu", dtype, enabled=dtype != F32):
        expected = results(plain, batch())
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(results(model, batch()), expected, strict=True))
    applied.set_step(0)
    assert min(casts(model, batch().requires_grad_())) > 0


@needs_torchao
@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_forward_only_bfloat16_leaves_the_backward_products_in_float8(recipe: Any) -> None:
    plain = nn.Sequential(nn.Linear(16, 32, bias=False))
    model = copy.deepcopy(plain)
    convert_to_float8(model, recipe=recipe, emulate=True)
    x = batch().bfloat16().float()  # the backward pass of either sees the same input
    applied = apply_policies(model, {"0": {0: "float8", 5: "bfloat16_forward", 9: "bfloat16"}})
    eight = results(model, x)
    applied.set_step(5)
    assert applied.dtypes() == {"0": "bfloat16_forward"}
    forward_only = results(model, x)
    counted = casts(model, x.requires_grad_())
    applied.set_step(9)
    sixteen = results(model, x.detach())
    assert torch.equal(forward_only[0], sixteen[0])
    assert not torch.equal(forward_only[0], eight[0])
    for mine, narrow, wide in zip(forward_only[1:], eight[1:], sixteen[1:], strict=True):
        assert torch.equal(mine, narrow)
        assert not torch.equal(mine, wide)
    assert counted[0] == 0
    assert counted[1] > 0


@needs_torchao
def test_removing_in_the_forward_only_stage_gives_the_float8_layer_back() -> None:
    model = Mlp()
    convert_to_float8(model, emulate=True)
    kinds, config, before = [type(m) for m in model], model[0].config, results(model, batch())
    applied = apply_policies(model, {"*": "bfloat16_forward"})
    assert "dis_ten" in repr(model[0])
    copied = copy.deepcopy(model)
    applied.remove()
    assert [type(m) for m in model] == kinds
    assert model[0].config is config
    assert all(torch.equal(a, b) for a, b in zip(results(model, batch()), before, strict=True))
    assert casts(copied, batch().requires_grad_())[0] == 0
    remove_policies(copied)
    assert casts(copied, batch().requires_grad_())[0] == 4


@needs_torchao
def test_float8_layers_with_policies_go_through_pickle() -> None:
    model = Mlp()
    convert_to_float8(model, emulate=True)
    apply_policies(model, {"*": "bfloat16_forward"})
    back = pickle.loads(pickle.dumps(model))
    assert torch.equal(back(batch()), model(batch()))
    assert casts(back, batch().requires_grad_())[0] == 0


@needs_torchao
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_float8_schedule_compiles_once_per_format(backend: str) -> None:
    torch._dynamo.reset()
    model = Mlp()
    convert_to_float8(model, emulate=True)
    applied = apply_policies(model, {"*": {0: "float8", 3: "bfloat16_forward", 6: "bfloat16"}})
    eager = copy.deepcopy(model)
    remove_policies(eager)
    by_hand = apply_policies(eager, applied.policies)
    graphs: list[Any] = []
    compiler = torch._dynamo.lookup_backend(backend)
    compiled = torch.compile(model, backend=lambda g, i: (graphs.append(g), compiler(g, i))[1], fullgraph=True)
    for step in (0, 1, 3, 4, 6, 7, 0):
        applied.set_step(step)
        by_hand.set_step(step)
        pairs = zip(results(compiled, batch()), results(eager, batch()), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    assert len(graphs) == 3


# --- bad input ----------------------------------------------------------------------------------------------------


def lone_layers(*sizes: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(size, size) for size in sizes))


def convert_alone() -> nn.Module:
    layer = nn.Linear(16, 16)
    assert convert_to_float8(layer, emulate=True).converted == ("",)
    return layer


def policied() -> nn.Module:
    model = Mlp()
    apply_policies(model, {"*": "bfloat16"})
    return model


def converted() -> nn.Module:
    model = lone_layers(16)
    convert_to_float8(model, emulate=True)
    return model


MISTAKES: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "a mistyped recipe": (
        Mlp,
        {"recipe": "rowise"},
        "recipe must be one of tensorwise, rowwise, got 'rowise'; did you",
    ),
    "a recipe of torchao that keeps float32": (Mlp, {"recipe": "rowwise_with_gw_hp"}, "recipe must be one of"),
    "no recipe": (Mlp, {"recipe": None}, "recipe must be one of tensorwise, rowwise, got None"),
    "emulate as a text": (Mlp, {"emulate": "yes"}, "emulate must be True or False, got 'yes'"),
    "skip as a number": (Mlp, {"skip": 4}, "skip must be names or patterns such as"),
    "skip with a number inside": (Mlp, {"skip": [4]}, "a layer pattern must be a text"),
    "skip without a match": (Mlp, {"skip": "head"}, "layer pattern must match a linear layer, got 'head'"),
    "skip all": (Mlp, {"skip": "*"}, "model must have a linear layer that can compute in float8, got 0: skipped as *"),
    "no linear layer": (lambda: nn.Sequential(nn.Conv2d(16, 16, 1)), {}, "can compute in float8, got none"),
    "no layer that divides": (lambda: lone_layers(8, 20), {}, "got 0: its weight is 8 x 8; both must divide by 16; 1:"),
    "an empty layer": (lambda: nn.Sequential(nn.Linear(16, 0)), {}, "got 0: its weight is 0 x 16"),
    "twice": (converted, {}, "got 0: it is a float8 layer already"),
    "after its policies": (policied, {}, "model must have no policies yet; remove them, convert, and apply them again"),
}


@needs_torchao
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    make, options, sentence = MISTAKES[name]
    model = make()
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(BitdialError) as caught:
        convert_to_float8(model, **({"emulate": True} | options))
    assert sentence in str(caught.value)
    assert [type(module) for module in model.modules()] == kinds


@needs_torchao
@without_float8_gpu
def test_a_device_without_float8_is_refused_unless_emulated() -> None:
    model = Mlp()
    with pytest.raises(BitdialError, match=r"float8 needs an NVIDIA GPU of compute capability 8\.9 or newer"):
        convert_to_float8(model)
    assert type(model[0]) is nn.Linear


@needs_torchao
def test_the_device_that_counts_is_the_one_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(float8, "check_device", lambda _, device: asked.append(str(device)))
    convert_to_float8(Mlp())
    convert_to_float8(Mlp(), device=torch.device("cuda", 1))  # weights still on the host
    assert asked == ["cpu", "cuda:1"]


@needs_torchao
def test_a_policy_needs_a_float8_layer_among_those_it_still_governs() -> None:
    model = Mlp()
    convert_to_float8(model, skip="2", emulate=True)
    with pytest.raises(BitdialError, match="policy '2' must cover a float8 layer to give float8, got none"):
        apply_policies(model, {"*": "bfloat16", "2": "float8"})
    with pytest.raises(BitdialError, match="policy '\\*' must cover a float8 layer to give bfloat16_forward"):
        apply_policies(model, [("*", {0: "bfloat16", 9: "bfloat16_forward"}), ("0", "float32")])


@needs_torchao
def test_a_torchao_made_for_another_torch_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.float8", None)  # importing it fails now
    said = r"float8 needs a torchao that goes with torch \d.*, got one that cannot be imported \(import of torchao"
    with pytest.raises(BitdialError, match=said):
        convert_to_float8(Mlp(), emulate=True)


def test_without_torchao_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BitdialError, match=r"float8 needs torchao, got none; pip install 'bitdial\[float8\]'"):
        convert_to_float8(Mlp(), emulate=True)
