"""Networks that read the weight of a layer instead of calling it: they get the quantized one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from bitdial.export import load_packed, save_packed
from bitdial.layers import BitDial, QuantConv2d, QuantizedLayer, cost, quantize
from tests.layers.nets import images, rows

EVERY_KIND = ["uniform", "dorefa", "twn", "absmean", "ttq", "ternary_lsq"]


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's weight, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 8)
        self.body = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.body(torch.relu(self.encoder(x))))
        return functional.linear(h, self.encoder.weight.t())


class Read(nn.Module):
    """A convolution that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.conv.weight, self.conv.bias)


class Writes(nn.Module):
    """A layer in whose weight the forward pass of its owner writes."""

    def __init__(self, write: Callable[[nn.Linear], Any]) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        self.write(self.inner)
        return self.inner(x)


def by_hand(layer: QuantizedLayer) -> Tensor:
    return layer.quantized_weight()


@pytest.mark.parametrize("quantizer", EVERY_KIND)
def test_a_functional_convolution_takes_the_quantized_weight(quantizer: str) -> None:
    model = quantize(Read(), 3, 8, quantizer=quantizer, skip=())
    x = images()
    expected = functional.conv2d(x, by_hand(model.conv), model.conv.bias)
    gradients = torch.autograd.grad(expected.square().sum(), list(model.parameters()), allow_unused=True)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert torch.equal(model(x), expected)
            assert torch.equal(model.forward(x), expected)  # without the hooks that a call runs
            assert torch.equal(torch.func.functional_call(model, dict(model.named_parameters()), (x,)), expected)
    model(x).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert gradient is not None
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("quantizer", EVERY_KIND)
def test_tied_uses_are_quantized_alike_and_load_back_alike(quantizer: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = quantize(Tied(), 3, 32, quantizer=quantizer, skip=())
    x = rows()
    encoder, body = by_hand(model.encoder), by_hand(model.body)
    h = torch.relu(
        functional.linear(torch.relu(functional.linear(x, encoder, model.encoder.bias)), body, model.body.bias)
    )
    assert torch.allclose(model(x), functional.linear(h, encoder.t()), atol=1e-6)
    file = save_packed(model, tmp_path / "tied.safetensors")
    fresh = load_packed(file, quantize(Tied(), 3, 32, quantizer=quantizer, skip=()))
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    copied = copy.deepcopy(model)
    assert torch.equal(copied(x), model(x))


def test_at_32_bits_a_read_weight_is_the_float_one_with_its_gradient() -> None:
    plain = Tied()
    model = quantize(copy.deepcopy(plain), 32, 32, skip=())
    for each in (plain, model):
        each(rows()).square().sum().backward()
    assert torch.equal(model(rows()), plain(rows()))
    assert torch.equal(model.encoder.weight.grad, plain.encoder.weight.grad)


def test_turning_the_dial_turns_what_is_read() -> None:
    model = quantize(Read(), 8, 8, skip=())
    outputs = []
    for bits in (2, 4, 32):
        BitDial(model).set(weights=bits)
        outputs.append(model(images()))
        assert torch.equal(outputs[-1], functional.conv2d(images(), by_hand(model.conv), model.conv.bias))
    assert not any(torch.equal(one, outputs[2]) for one in outputs[:2])


def test_outside_of_a_forward_pass_the_weight_is_the_parameter() -> None:
    model = quantize(Tied(), 2, 2, skip=())
    assert model.encoder.weight is model.encoder._parameters["weight"]
    assert isinstance(model.encoder.weight, nn.Parameter)
    seen: list[Any] = []
    model.encoder.register_forward_hook(lambda layer, *_: seen.append(layer.weight))
    model(rows())
    assert seen[0] is model.encoder.weight  # nor for the layer itself, and its own hooks
    del model.encoder.weight
    with pytest.raises(AttributeError, match="weight"):
        _ = model.encoder.weight
    with pytest.raises(AttributeError, match="weight"):
        del model.encoder.weight


def test_the_ledger_says_which_weights_are_read() -> None:
    ledger = cost(quantize(Tied(), 4, 4, skip=()), rows())
    assert ledger.read == ("encoder",)
    assert "weights that other modules read (what they multiply is not quantized): encoder" in ledger.table()
    model = nn.Sequential(Read(), nn.Conv2d(4, 4, 1))
    ledger = cost(quantize(model, 4, 4, skip=()), images())
    assert (ledger.read, ledger.uncounted) == (("0.conv",), ("0.conv",))
    assert cost(quantize(nn.Sequential(nn.Linear(6, 6)), 4, 4, skip=()), rows()).read == ()


def test_compiled_the_read_weight_is_quantized_too() -> None:
    model = quantize(Read(), 3, 8, skip=())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for bits in (2, 3, 32):
        BitDial(model).set(bits)
        assert torch.allclose(compiled(images()), model(images()), atol=1e-6)


def test_what_is_written_over_the_weight_goes_before() -> None:
    layer = QuantConv2d(3, 4, 3, weights=2)
    layer.weight = replacement = nn.Parameter(torch.ones_like(layer.weight))
    assert layer.weight is replacement is dict(layer.named_parameters())["weight"]


@pytest.mark.parametrize("quantizer", ["uniform", "twn"])
def test_a_swin_transformer_loads_back_alike(quantizer: str, tmp_path: Path) -> None:
    def small() -> nn.Module:
        torch.manual_seed(0)
        return torchvision.models.SwinTransformer([4, 4], 8, [2], [2], [4, 4], num_classes=5)

    model = quantize(small(), 3, 8, quantizer=quantizer).train()
    x = torch.randn(2, 3, 32, 32)
    model(x).sum().backward()
    assert all(layer.weight.grad is not None for layer in model.modules() if isinstance(layer, QuantizedLayer))
    file = save_packed(model.eval(), tmp_path / "swin.safetensors")
    loaded = load_packed(file, quantize(small(), 3, 8, quantizer=quantizer)).eval()
    assert torch.equal(loaded(x), model(x))
    assert {name.rsplit(".", 1)[1] for name in cost(model, x).read} == {"qkv", "proj"}


def renorm(layer: nn.Linear) -> None:
    layer.weight.data = torch.renorm(layer.weight.data, 2, 0, 0.1)


def subtract(layer: nn.Linear) -> None:
    layer.weight.data -= 0.1  # as adapters are taken out of a weight


@torch.no_grad()
def clamp(layer: nn.Linear) -> None:
    layer.weight.clamp_(-0.1, 0.1)


@torch.no_grad()
def zero_a_row(layer: nn.Linear) -> None:
    layer.weight[0] = 0.0


@torch.no_grad()
def shrink(layer: nn.Linear) -> None:
    weight = layer.weight
    weight *= 0.5


@torch.no_grad()
def into(layer: nn.Linear) -> None:
    torch.mul(torch.ones(6, 6), 0.3, out=layer.weight)


def begin_anew(layer: nn.Linear) -> None:
    nn.init.constant_(tensor=layer.weight, val=0.2)


def freeze(layer: nn.Linear) -> None:
    layer.weight.requires_grad_(False)


@pytest.mark.parametrize("bits", [3, 32])
@pytest.mark.parametrize("write", [renorm, subtract, clamp, zero_a_row, shrink, into, begin_anew, freeze])
def test_what_a_forward_pass_writes_goes_into_the_parameter(write: Callable[[nn.Linear], Any], bits: float) -> None:
    plain = Writes(write)
    model = quantize(copy.deepcopy(plain), bits, 32, skip=())
    weight = model.inner.weight
    for each in (plain, model):
        each(rows())
    assert model.inner.weight is weight
    assert torch.equal(weight, plain.inner.weight)
    assert weight.requires_grad == plain.inner.weight.requires_grad
    assert not model.inner.is_read


def test_adapters_are_taken_out_of_a_quantized_weight() -> None:
    peft = pytest.importorskip("peft")
    model = quantize(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), 8, 8, skip=())
    config = peft.LoraConfig(target_modules=["0", "2"], r=2, init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    before = [parameter.clone() for parameter in adapted.parameters()]
    adapted.merge_adapter()
    with adapted.disable_adapter():
        adapted(rows())
    for one, other in zip(before, adapted.parameters(), strict=True):
        torch.testing.assert_close(one, other)


LOOKS = [
    lambda weight: weight.dtype,
    lambda weight: weight.shape,
    lambda weight: weight.size(0),
    lambda weight: isinstance(weight, Tensor),
    lambda weight: weight.requires_grad,
]


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_a_dtype_or_shape_is_no_reading(look: Callable[[Tensor], Any]) -> None:
    model = quantize(Writes(lambda layer: look(layer.weight)), 4, 4, skip=())
    assert cost(model, rows()).read == ()


USES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "added to another in place": lambda x, w: functional.linear(x, torch.zeros(8, 6).add_(w)),
    "copied": lambda x, w: functional.linear(x, torch.empty(8, 6).copy_(w)),
    "in a list": lambda x, w: functional.linear(x, torch.cat([w, w])[:8]),
    "a part": lambda x, w: functional.linear(x, w[:]),
    "on the left": lambda x, w: (w @ x.t()).t(),
    "detached": lambda x, w: functional.linear(x, w.detach()),
}


@pytest.mark.parametrize("use", USES)
def test_every_use_takes_the_quantized_weight(use: str) -> None:
    class Uses(Tied):
        def forward(self, x: Tensor) -> Tensor:
            return USES[use](x, self.encoder.weight)

    model = quantize(Uses(), 2, 8, skip=())
    result = model(rows())
    assert type(result) is Tensor
    torch.testing.assert_close(result, functional.linear(rows(), by_hand(model.encoder)))
    assert model.encoder.is_read
    if use != "detached":
        result.sum().backward()
        torch.testing.assert_close(model.encoder.weight.grad, rows().sum(0).expand(8, 6))


def test_a_pruned_weight_is_read_quantized_too() -> None:
    model = quantize(Tied(), 2, 32, skip=())
    prune.l1_unstructured(model.encoder, "weight", 0.5)
    h = torch.relu(model.body(torch.relu(model.encoder(rows()))))
    assert torch.equal(model(rows()), functional.linear(h, by_hand(model.encoder).t()))
    prune.remove(model.encoder, "weight")
    assert isinstance(model.encoder.weight, nn.Parameter)
    h = torch.relu(model.body(torch.relu(model.encoder(rows()))))
    assert torch.equal(model(rows()), functional.linear(h, by_hand(model.encoder).t()))


def test_replicas_read_the_quantized_weight() -> None:
    model = quantize(Tied(), 2, 32, skip=())
    replica = model._replicate_for_data_parallel()
    for name, layer in model.named_children():  # as torch.nn.parallel.replicate does it
        replica._modules[name] = twin = layer._replicate_for_data_parallel()
        for key, parameter in layer._parameters.items():
            setattr(twin, key, parameter.view_as(parameter))
    assert torch.equal(replica(rows()), model(rows()))


def test_a_derivative_by_a_weight_in_a_forward_pass_is_that_of_the_parameter() -> None:
    class Inner(Tied):
        def forward(self, x: Tensor) -> Tensor:
            return torch.autograd.grad(self.encoder(x).square().sum(), self.encoder.weight, create_graph=True)[0]

    model = quantize(Inner(), 3, 8, skip=())
    right = torch.autograd.grad(model.encoder(rows()).square().sum(), model.encoder.weight)[0]
    assert torch.equal(model(rows()), right)
    assert not model.encoder.is_read


def test_a_read_weight_that_a_module_keeps_is_copied_as_a_tensor() -> None:
    class Keeps(Tied):
        def forward(self, x: Tensor) -> Tensor:
            self.kept = self.encoder.weight
            return functional.linear(x, self.kept)

    model = quantize(Keeps(), 3, 8, skip=())
    with torch.no_grad():
        model(rows())
    for copied in (copy.deepcopy(model).kept, pickle.loads(pickle.dumps(model.kept))):
        assert type(copied) is Tensor
        assert torch.equal(copied, model.kept)


def test_the_ledger_tells_what_this_example_read() -> None:
    model = quantize(Tied(), 3, 8, skip=())
    model(rows())
    assert cost(model.encoder, rows()).read == ()
    assert cost(model, rows()).read == ("encoder",)
