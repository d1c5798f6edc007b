"""A quantized layer is its float layer on separately quantized operands, and a good citizen of torch."""

from __future__ import annotations

import copy
import io
import math
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import fuse_conv_bn_eval, parametrizations, parametrize, prune

from bitdial.errors import BitdialError
from bitdial.layers import QuantConv1d, QuantConv2d, QuantizedLayer, QuantLinear, quantize
from bitdial.layers.ranges import RANGE_MOMENTUM
from bitdial.numerics import fake_quantize, min_max, quantize_gradient
from tests.layers.nets import rows

QUANTIZERS = ["uniform", "dorefa"]
QUANTIZERS_OF_ALL_KINDS = ["uniform", "dorefa", "twn", "ttq", "ternary_lsq"]


class _RoundedGradient(torch.autograd.Function):
    """The identity whose gradient is rounded: how the layer's gradient quantization reads when it stands alone."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bits: Tensor) -> Tensor:
        ctx.save_for_backward(bits)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return quantize_gradient(gradients[0], *ctx.saved_tensors), None


def plainly(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """The layer from its parts: each operand quantized on its own, then torch's float product."""
    w = layer.quantizer.weight(layer.weight, layer.weight_bits, layer.granularity == "channel")
    if isinstance(layer, QuantLinear):
        y = functional.linear(on_grid(layer, x), w, layer.bias)
    else:
        # The padding that torch would put around the input; the zeros and copies are on the grid or rounded with it.
        stride, dilation, groups = layer.stride, layer.dilation, layer.groups
        convolve: Callable[..., Tensor] = functional.conv1d if len(stride) == 1 else functional.conv2d
        twice = layer._reversed_padding_repeated_twice
        if layer.padding_mode != "zeros":
            x = on_grid(layer, functional.pad(x, twice, mode=layer.padding_mode))
            y = convolve(x, w, layer.bias, stride, 0, dilation, groups)
        elif isinstance(layer.padding, str):
            x = functional.pad(on_grid(layer, x), twice)  # zeros take no part in the range
            y = convolve(x, w, layer.bias, stride, 0, dilation, groups)
        else:
            y = convolve(on_grid(layer, x), w, layer.bias, stride, layer.padding, dilation, groups)
    return y if layer.gradient_bits is None else _RoundedGradient.apply(y, layer.gradient_bits)


def on_grid(layer: QuantizedLayer, x: Tensor) -> Tensor:
    if layer.quantizer.activation_range is not None:
        return fake_quantize(x, torch.tensor(0.0), torch.tensor(1.0), layer.activation_bits, clip=True)
    return fake_quantize(x, *min_max(x.detach()), layer.activation_bits)


def compare(layer: QuantizedLayer, x: Tensor) -> None:
    """Forward and every gradient of the layer against its parts."""
    results = []
    for compute in (layer, lambda t: plainly(layer, t)):
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        torch.manual_seed(0)  # the same stochastic rounding
        y = compute(leaf)
        weights = torch.linspace(-1, 1.5, y.numel()).reshape(y.shape)
        (y * weights).sum().backward()
        results.append((y.detach(), leaf.grad, *(p.grad for p in layer.parameters())))
    assert len(results[0]) == len(results[1]) >= 3
    for ours, expected in zip(*results, strict=True):
        assert ours is not None
        assert expected is not None
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * max(expected.abs().max().item(), 1.0))


CONV2D = {
    "plain": {},
    "stride": {"stride": (2, 1)},
    "padding": {"padding": (1, 2)},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "replicate": {"padding": (2, 1), "padding_mode": "replicate", "stride": 2},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "same": {"padding": "same", "dilation": (1, 2)},
    "same_circular": {"padding": "same", "padding_mode": "circular"},
    "valid": {"padding": "valid"},
    "no_bias": {"bias": False},
}
WIDTHS = [(1, 1), (4, 2), (3.3, 1.58), (8, 8), (16, 16), (32, 32), (4, 32), (32, 4)]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7)) * 0.7 + 0.2


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("case", CONV2D)
@pytest.mark.parametrize("gradients", [None, 8])
def test_conv2d(case: str, quantizer: str, gradients: float | None) -> None:
    torch.manual_seed(0)
    for kernel in (3, 2):  # an even kernel is padded unevenly by "same"
        layer = QuantConv2d(
            4, 8, kernel, weights=4, activations=3, gradients=gradients, quantizer=quantizer, **CONV2D[case]
        )
        compare(layer, draw(3, 4, 7, 6))
        compare(layer, draw(4, 7, 6))  # unbatched


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kernel", [3, 2, (2, 5)])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_padding_takes_no_part_in_the_range(kernel: Any, mode: str) -> None:
    x = draw(3, 4, 7, 7).abs() + 4
    plain = nn.Conv2d(4, 8, kernel, padding="same", padding_mode=mode)
    layer = QuantConv2d.from_float(plain, activations=4)
    error = (layer(x) - plain(x)).square().mean().sqrt() / plain(x).std()
    assert error < 0.05
    assert layer.range_low.item() == x.min().item()
    assert torch.equal(layer.eval()(x), layer.train()(x))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("case", ["plain", "groups", "no_bias", "valid", "same_circular", "same"])
def test_conv1d(case: str, quantizer: str) -> None:
    torch.manual_seed(0)
    options = {**CONV2D[case], **({"dilation": 2} if case == "same" else {})}
    layer = QuantConv1d(4, 8, 3, weights=4, activations=3, gradients=8, quantizer=quantizer, **options)
    compare(layer, draw(3, 4, 9))
    compare(layer, draw(4, 9))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gradients", [None, 8, 32])
def test_linear(quantizer: str, bias: bool, gradients: float | None) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(6, 5, bias=bias, weights=4, activations=3, gradients=gradients, quantizer=quantizer)
    for shape in [(7, 6), (6,), (2, 3, 6), (2, 1, 3, 6), (1, 6)]:
        compare(layer, draw(*shape))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("widths", WIDTHS)
def test_every_width(quantizer: str, granularity: str, widths: tuple[float, float]) -> None:
    torch.manual_seed(0)
    options = {"weights": widths[0], "activations": widths[1], "quantizer": quantizer, "granularity": granularity}
    compare(QuantLinear(6, 5, **options), draw(7, 6))
    compare(QuantConv2d(4, 8, 3, padding=1, **options), draw(2, 4, 5, 5))


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_channels_last_and_other_layouts(shift: float) -> None:
    torch.manual_seed(0)
    layer = QuantConv2d(4, 8, 3, padding=1, weights=4, activations=3, gradients=8)
    x = draw(2, 4, 6, 6).relu() + shift
    compare(layer, x.to(memory_format=torch.channels_last))
    compare(layer, x.transpose(2, 3))
    compare(layer, x.repeat(1, 2, 1, 1)[:, ::2])
    compare(layer.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    compare(QuantLinear(6, 5, weights=4, activations=3), draw(6, 7).t())


@pytest.mark.parametrize("value", [0.0, 1.0, 5.0, -100.0])
def test_a_constant_input(value: float) -> None:
    torch.manual_seed(0)
    compare(QuantLinear(6, 5, weights=4, activations=4), torch.full((3, 6), value))
    compare(QuantLinear(1, 5, weights=4, activations=4), torch.full((1, 1), value))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_input_that_is_not_finite_shows_in_the_output_and_the_gradients(bad: float) -> None:
    # DoReFa clips infinities to the ends of its range.
    for quantizer, finite_is_right in (("uniform", False), ("dorefa", not math.isnan(bad))):
        torch.manual_seed(0)
        layer = QuantLinear(6, 5, weights=4, activations=4, quantizer=quantizer)
        x = rows()
        x[3, 2] = bad
        y = layer(x)
        y.square().sum().backward()
        assert y[3].isfinite().all() == finite_is_right
        assert layer.weight.grad.isfinite().all() == finite_is_right


def test_an_empty_batch() -> None:
    for layer, x in (
        (QuantLinear(6, 5, weights=4, activations=4, gradients=8), torch.empty(0, 6)),
        (QuantConv2d(3, 4, 3, weights=4, activations=4, gradients=8), torch.empty(0, 3, 5, 5)),
    ):
        y = layer(x)
        assert y.shape[0] == 0
        y.sum().backward()
        assert (layer.weight.grad == 0).all()


@pytest.mark.parametrize(
    ("compiled", "dtype"),
    [
        *((False, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64)),
        (True, torch.float32),
        *(pytest.param(True, dtype, marks=pytest.mark.slow) for dtype in (torch.bfloat16, torch.float64)),
    ],
)
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: QuantLinear(6, 5, weights=4, activations=4), (8, 6)),
        (lambda: QuantConv1d(6, 5, 3, weights=4, activations=4), (8, 6, 9)),
        (lambda: QuantConv2d(6, 5, 3, weights=4, activations=4), (8, 6, 9, 9)),
    ],
)
def test_an_empty_batch_says_nothing_about_the_range(
    make: Callable[[], QuantizedLayer], shape: tuple[int, ...], compiled: bool, dtype: torch.dtype
) -> None:
    torch.compiler.reset()
    layer = make().to(dtype)
    run = torch.compile(layer, backend="aot_eager") if compiled else layer
    x = (draw(*shape).sigmoid() + 4).to(dtype)
    run(x)
    before = [buffer.clone() for buffer in layer.buffers()]
    run(x[:0]).sum().backward()
    layer.eval()
    assert run(x[:0]).shape[0] == 0
    assert all(torch.equal(buffer, kept) for buffer, kept in zip(layer.buffers(), before, strict=True))
    assert len(run(x).unique()) > 8


@pytest.mark.parametrize("mode", ["eager", "evaluation", "compiled", "autocast", "32 bits"])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nn.Linear(8, 4), (8,)),
        (nn.Linear(8, 4), (3, 8)),
        (nn.Linear(8, 4), (2, 5, 8)),
        (nn.Linear(8, 4, bias=False), (2, 5, 8)),
        (nn.Linear(8, 4), (2, 3, 5, 8)),
        (nn.Linear(8, 4), (0, 5, 8)),
        (nn.Conv1d(6, 5, 3), (2, 6, 9)),
        (nn.Conv1d(6, 5, 3), (6, 9)),
        (nn.Conv2d(6, 5, 3), (2, 6, 9, 9)),
        (nn.Conv2d(6, 6, 3, groups=6), (6, 9, 9)),
    ],
)
def test_an_output_may_be_changed_in_place(kind: nn.Module, shape: tuple[int, ...], mode: str) -> None:
    torch.compiler.reset()
    classes: dict[type, Any] = {nn.Linear: QuantLinear, nn.Conv1d: QuantConv1d, nn.Conv2d: QuantConv2d}
    bits = 32 if mode == "32 bits" else 4
    layer = classes[type(kind)].from_float(kind, weights=bits, activations=bits).train(mode != "evaluation")
    x, gradients = draw(*shape), []
    for change in (torch.relu, torch.relu_):
        layer.zero_grad()
        run: Any = lambda x, change=change: change(layer(x)) * 2  # noqa: E731
        if mode == "compiled":
            run = torch.compile(run, backend="aot_eager")
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
            y = run(x)
        y.float().square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_an_empty_batch_before_any_other_leaves_the_range_unknown() -> None:
    layer = QuantLinear(6, 5, weights=4, activations=4)
    layer(torch.empty(0, 6))
    assert layer.range_batches == 0
    x = rows() + 4
    layer(x)
    assert (layer.range_low, layer.range_high) == (x.min(), x.max())


def test_32_bits_is_the_float_layer_bit_for_bit() -> None:
    for kind, x in ((nn.Linear(6, 5), draw(7, 6)), (nn.Conv2d(4, 8, 3, padding=1), draw(2, 4, 5, 5))):
        quantized = (QuantLinear if isinstance(kind, nn.Linear) else QuantConv2d).from_float(kind, gradients=32)
        outs = []
        for layer in (kind, quantized):
            kind.zero_grad()
            leaf = x.clone().requires_grad_()
            y = layer(leaf)
            y.square().sum().backward()
            outs.append((y.detach(), leaf.grad, kind.weight.grad, kind.bias.grad))
        for ours, theirs in zip(*outs, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        assert torch.equal(outs[0][0], outs[1][0])


def test_gradients_at_32_draw_no_random_numbers_and_below_do() -> None:
    layer = QuantLinear(6, 5, weights=4, activations=4, gradients=32)
    before = torch.get_rng_state()
    layer(rows()).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)
    layer.gradient_bits.fill_(8)
    layer(rows()).square().sum().backward()
    assert not torch.equal(torch.get_rng_state(), before)


def test_frozen_parameters_and_inputs_get_no_gradient() -> None:
    layer = QuantLinear(6, 5, weights=4, activations=4)
    layer.weight.requires_grad_(False)
    x = rows().requires_grad_()
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert x.grad is not None
    layer.requires_grad_(False)
    assert not layer(rows()).requires_grad


# --- a good citizen ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Linear(3, 4), QuantLinear),
        (nn.Conv1d(4, 8, 3, 2, 1, 1, 2, False, "reflect"), QuantConv1d),
        (nn.Conv2d(4, 8, (3, 2), padding="same"), QuantConv2d),
    ],
)
def test_from_float_keeps_the_very_parameters_shape_and_mode(layer: Any, kind: type[QuantizedLayer]) -> None:
    layer.eval()
    layer.weight.requires_grad_(False)
    new = kind.from_float(layer, weights=4, activations=3)
    assert new.weight is layer.weight
    assert new.bias is layer.bias
    assert not new.weight.requires_grad
    assert not new.training
    assert [n for n, _ in new.named_parameters()] == [n for n, _ in layer.named_parameters()]
    for name in kind._shape:
        assert getattr(new, name) == getattr(layer, name)
    assert (new.weight_bits.item(), new.activation_bits.item(), new.gradient_bits) == (4, 3, None)


def test_from_float_keeps_hooks_and_their_handles() -> None:
    seen: list[str] = []
    layer = nn.Linear(3, 4)
    handle = layer.register_forward_hook(lambda *_: seen.append("after"))
    layer.register_forward_pre_hook(lambda *_: seen.append("before"))
    new = QuantLinear.from_float(layer)
    new(torch.zeros(1, 3))
    assert seen == ["before", "after"]
    handle.remove()
    new(torch.zeros(1, 3))
    assert seen == ["before", "after", "before"]


def test_the_input_may_be_given_by_name_as_to_the_float_layers() -> None:
    x = rows()
    layer = QuantLinear(6, 5, weights=4, activations=4)
    assert torch.equal(layer(input=x), layer(x))


def make() -> QuantLinear:
    torch.manual_seed(0)
    layer = QuantLinear(6, 5, weights=4.5, activations=3, gradients=8)
    for seed in range(3):
        layer(rows(seed=seed))
    return layer


def test_state_dict_carries_widths_and_ranges() -> None:
    layer = make()
    saved = io.BytesIO()
    torch.save(layer.state_dict(), saved)
    saved.seek(0)
    other = QuantLinear(6, 5, gradients=32)
    other.load_state_dict(torch.load(saved, weights_only=True))
    assert (other.weight_bits.item(), other.activation_bits.item(), other.gradient_bits.item()) == (4.5, 3, 8)
    assert other.range_batches.item() == 3
    assert torch.equal(other.eval()(rows(seed=9)), layer.eval()(rows(seed=9)))


def test_a_float_state_dict_loads_keeps_the_widths_and_forgets_the_range() -> None:
    layer, plain = make(), nn.Linear(6, 5)
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.weight, plain.weight)
    assert layer.weight_bits.item() == 4.5
    assert layer.range_batches.item() == 0


def test_a_state_dict_with_a_part_of_the_widths_is_refused() -> None:
    layer = make()
    state = layer.state_dict()
    del state["weight_bits"]
    with pytest.raises(RuntimeError, match="weight_bits"):
        layer.load_state_dict(state)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_compute_the_same_and_are_independent(again: Callable[[QuantLinear], QuantLinear]) -> None:
    layer = make()
    other = again(layer)
    assert torch.equal(other.eval()(rows()), layer.eval()(rows()))
    other.weight_bits.fill_(2)
    assert layer.weight_bits.item() == 4.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_layer_of_another_dtype_trains_and_keeps_its_widths_in_float32(dtype: torch.dtype, quantizer: str) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(6, 5, weights=5.3, activations=4, gradients=8, quantizer=quantizer)
    expected = layer(rows())
    layer.reset_range()
    layer.to(dtype)
    assert layer.weight.dtype == dtype
    assert {b.dtype for b in layer.buffers()} == {torch.float32}
    assert layer.weight_bits.item() == pytest.approx(5.3)
    y = layer(rows().to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.1)
    y.sum().backward()
    assert layer.weight.grad.dtype == dtype
    assert layer.eval()(rows().to(dtype)).dtype == dtype


def test_float64_at_32_bits_is_exact() -> None:
    plain = nn.Linear(6, 5).double()
    layer = QuantLinear.from_float(plain)
    x = rows().double()
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer.eval()(x), plain(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activations", [4, 8, 12, 16, 32])
def test_autocast_forward_and_backward_are_those_of_the_parts(dtype: torch.dtype, activations: float) -> None:
    torch.manual_seed(0)
    conv = QuantConv2d(3, 8, 3, weights=8, activations=activations, gradients=32)
    linear = QuantLinear(8 * 16, 5, weights=8, activations=activations)
    x = torch.randn(16, 3, 6, 6) + 1
    found = []
    for first, second in ((conv, linear), (lambda t: plainly(conv, t), lambda t: plainly(linear, t))):
        conv.zero_grad()
        linear.zero_grad()
        with torch.autocast("cpu", dtype):
            y = second(torch.relu(first(x)).flatten(1))
        assert y.dtype == dtype
        (y.float() * 30).sum().backward()  # a scaled loss
        found.append((y.detach(), *(p.grad for p in (*conv.parameters(), *linear.parameters()))))
    for ours, expected in zip(*found, strict=True):
        assert ours.dtype == expected.dtype
        assert ours.isfinite().all()
        assert (ours - expected).float().norm() <= 4 * torch.finfo(dtype).eps * expected.float().norm()


def test_autocast_at_32_bits_is_the_float_layers_autocast_bit_for_bit() -> None:
    plain = nn.Linear(6, 5)
    layer = QuantLinear.from_float(plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(rows()), plain(rows()))


def built_on_meta(quantizer: str) -> nn.Module:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    return quantize(model, 4, 8, gradients=6, quantizer=quantizer, skip=())


@pytest.mark.parametrize("quantizer", QUANTIZERS_OF_ALL_KINDS)
@pytest.mark.parametrize("way", ["to_empty and load", "to_empty and reset", "assign", "moved in half and back"])
def test_what_a_layer_was_built_with_outlives_its_buffers(quantizer: str, way: str) -> None:
    torch.manual_seed(0)
    floating = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    expected = quantize(copy.deepcopy(floating), 4, 8, gradients=6, quantizer=quantizer, skip=())
    model = built_on_meta(quantizer)
    if way == "assign":
        model.load_state_dict(floating.state_dict(), assign=True)
    else:
        if way == "moved in half and back":
            model.half().float()
        model.to_empty(device="cpu")
        for buffer in model.buffers():  # whatever to_empty found in memory was not taken
            assert buffer.dtype == torch.float32
        for layer, other in zip(model, expected, strict=True):
            if way == "to_empty and reset":
                torch.manual_seed(1)
                layer.reset_parameters()
                torch.manual_seed(1)
                other.reset_parameters()
        if way != "to_empty and reset":
            model.load_state_dict(floating.state_dict())
    for got, wanted in zip(model.state_dict().items(), expected.state_dict().items(), strict=True):
        assert got[0] == wanted[0]
        assert torch.equal(got[1], wanted[1]), got[0]
    x = draw(5, 8)
    for mode in (True, False):
        assert torch.equal(model.train(mode)(x), expected.train(mode)(x))


def test_to_empty_leaves_widths_and_ranges_that_have_values() -> None:
    layer = QuantLinear(6, 5, weights=4, activations=4)
    layer(rows())
    layer.weight_bits.fill_(3)
    before = [buffer.clone() for buffer in layer.buffers()]
    layer.to_empty(device="cpu")
    assert all(torch.equal(buffer, kept) for buffer, kept in zip(layer.buffers(), before, strict=True))


def fused(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model[1].running_var.fill_(0.01)
    return fuse_conv_bn_eval(model[0], model[1])


def pruned(model: nn.Module) -> nn.Module:
    return prune.ln_structured(model[0], "weight", 0.5, n=2, dim=0)


def assigned(model: nn.Module) -> nn.Module:
    model[0].weight = nn.Parameter(model[0].weight.detach() * 10)
    return model[0]


def reset(model: nn.Module) -> nn.Module:
    model[0].reset_parameters()
    return model[0]


@pytest.mark.parametrize("change", [fused, pruned, assigned, reset])
@pytest.mark.parametrize("quantizer", ["ttq", "ternary_lsq"])
def test_learned_scales_fit_another_weight(quantizer: str, change: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model = quantize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), 4, 32, quantizer=quantizer, skip=()).eval()
    x = draw(2, 3, 6, 6)
    with torch.no_grad():
        for scale in model[0].weight_quantizer.parameters():
            scale.fill_(100)
    layer = change(model)
    for name, fitting in layer.weight_quantizer.initial(layer.weight).items():
        assert torch.equal(getattr(layer.weight_quantizer, name), fitting)
    layer(x)
    with torch.no_grad():
        for scale in layer.weight_quantizer.parameters():
            scale.mul_(1.5)  # learning goes on from there
    layer(x)
    for name, fitting in layer.weight_quantizer.initial(layer.weight).items():
        assert torch.equal(getattr(layer.weight_quantizer, name), fitting * 1.5)


@pytest.mark.parametrize("quantizer", ["ttq", "ternary_lsq"])
def test_learned_scales_stay_where_the_weight_does(quantizer: str) -> None:
    layer = QuantLinear(6, 5, weights=2, quantizer=quantizer)
    prune.random_unstructured(layer, "weight", 0.3)
    parametrizations.weight_norm(plain := QuantLinear(6, 5, weights=2, quantizer=quantizer))
    for each in (layer, plain):
        with torch.no_grad():
            for scale in each.weight_quantizer.parameters():
                scale.mul_(1.5)  # learned
    learned = [scale.clone() for each in (layer, plain) for scale in each.weight_quantizer.parameters()]
    prune.remove(layer, "weight")
    parametrize.remove_parametrizations(plain, "weight")
    plain.weight = nn.Parameter(plain.weight.detach().bfloat16())
    layer(rows())
    found = [scale for each in (layer, plain) for scale in each.weight_quantizer.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(found, learned, strict=True))


@pytest.mark.parametrize("bits", [3, 32])
@pytest.mark.parametrize("quantizer", QUANTIZERS_OF_ALL_KINDS)
def test_a_convolution_fused_with_its_norm_is_the_quantizer_of_the_fused_weight(quantizer: str, bits: float) -> None:
    torch.manual_seed(0)
    model = quantize(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), bits, 32, quantizer=quantizer, skip=()
    ).eval()
    layer, x = fused(model), draw(2, 3, 6, 6)
    fresh = QuantConv2d(3, 8, 3, weights=bits, quantizer=quantizer).eval()
    fresh.load_state_dict({name: value for name, value in layer.state_dict().items() if name in ("weight", "bias")})
    assert torch.equal(layer(x), fresh(x))
    if bits == 32:
        torch.testing.assert_close(layer(x), model(x))


def test_the_meta_device_prints_and_computes_shapes() -> None:
    layer = QuantLinear(6, 5, weights=4, device="meta")
    assert "weights=?" in repr(layer)
    assert layer(torch.empty(3, 6, device="meta")).shape == (3, 5)


def test_repr_shows_quantizer_and_widths() -> None:
    assert "uniform: weights=4.5, activations=3, gradients=8" in repr(make())
    assert "gradients" not in repr(QuantLinear(2, 2))


# --- ranges -----------------------------------------------------------------------------------------------------


def test_the_training_range_is_the_batchs_own_and_its_average_is_kept() -> None:
    layer = QuantLinear(6, 5, weights=4, activations=3)
    lows, highs = [], []
    for seed in range(4):
        x = rows(seed=seed)
        lows.append(x.min())
        highs.append(x.max())
        layer(x)
    assert layer.range_batches.item() == 4
    torch.testing.assert_close(layer.range_low, torch.stack(lows).mean())
    torch.testing.assert_close(layer.range_high, torch.stack(highs).mean())


def test_after_ten_batches_the_range_forgets_at_its_momentum() -> None:
    layer = QuantLinear(6, 5, weights=4, activations=3)
    for _ in range(10):
        layer(torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]))
    layer(torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 3.0]]))
    assert layer.range_high.item() == pytest.approx(1 + RANGE_MOMENTUM * 2)


def test_evaluation_does_not_depend_on_batch_mates_once_a_range_was_seen() -> None:
    for quantizer in QUANTIZERS:
        layer = QuantLinear(6, 5, weights=4, activations=3, quantizer=quantizer)
        layer(rows())
        layer.eval()
        sample = rows(1, seed=5)
        alone = layer(sample)
        crowd = layer(torch.cat([sample, rows(8, seed=6) * 50]))[:1]
        torch.testing.assert_close(alone, crowd, rtol=1e-5, atol=1e-6)


def test_evaluation_without_a_seen_range_uses_the_batch_at_hand() -> None:
    layer = QuantLinear(6, 5, weights=4, activations=3).eval()
    x = rows()
    torch.testing.assert_close(layer(x), plainly(layer, x))
    assert layer.range_batches.item() == 0


def test_evaluation_clips_to_the_range_and_so_does_its_gradient() -> None:
    layer = QuantLinear(2, 1, bias=False, weights=32, activations=8)
    nn.init.ones_(layer.weight)
    layer(torch.tensor([[0.0, 1.0]]))
    layer.eval()
    x = torch.tensor([[5.0, 0.5]], requires_grad=True)
    y = layer(x)
    assert y.item() == pytest.approx(1.5, abs=0.01)
    y.sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0]]


def test_evaluation_changes_no_state() -> None:
    layer = make().eval()
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    layer(rows() * 100)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_reset_range_forgets_a_running_range_but_not_a_fixed_one() -> None:
    layer = make()
    layer.reset_range()
    assert (layer.range_low.item(), layer.range_high.item(), layer.range_batches.item()) == (0, 0, 0)
    fixed = QuantLinear(6, 5, quantizer="dorefa")
    fixed.reset_range()
    assert (fixed.range_low.item(), fixed.range_high.item()) == (0, 1)


# --- what autograd must not get wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("bits", [2, 4, 12, 32])
def test_an_input_changed_in_place_afterwards_never_gives_a_wrong_gradient(
    bits: float, quantizer: str, mode: bool
) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(6, 5, weights=4, activations=bits, quantizer=quantizer)
    leaf = rows().requires_grad_()
    wanted = (leaf, layer.weight)
    layer.train(mode)
    expected = torch.autograd.grad(layer(leaf * 1.0).square().sum(), wanted)
    x = leaf * 1.0
    y = layer(x)
    x.mul_(2)
    try:
        found = torch.autograd.grad(y.square().sum(), wanted)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)  # noqa: PT017
    else:  # the layer had kept what it needs
        for ours, right in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, right)


def test_backward_uses_the_widths_of_its_own_forward_pass() -> None:
    layer, x = make(), rows()
    alone = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
    y = layer(x)
    with torch.no_grad():
        for buffer in (layer.weight_bits, layer.activation_bits):
            buffer.fill_(16)
        layer.gradient_bits.fill_(32)
    layer.gradient_bits.fill_(8)
    torch.manual_seed(1)
    late = torch.autograd.grad(y.square().sum(), layer.weight)[0]
    # Stochastic rounding differs; the widths' effect on the gradient would be far larger.
    assert (late - alone).norm() < 0.2 * alone.norm()


def test_a_loss_over_two_widths_sums_their_gradients() -> None:
    layer, x = QuantLinear(6, 5, weights=4, activations=3), rows()

    def turn(bits: float) -> None:
        with torch.no_grad():
            layer.weight_bits.fill_(bits)
            layer.activation_bits.fill_(bits)

    apart = torch.zeros_like(layer.weight)
    for bits in (2, 8):
        turn(bits)
        apart += torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
    losses = []
    for bits in (2, 8):
        turn(bits)
        losses.append(layer(x).square().sum())
    together = torch.autograd.grad(sum(losses), layer.weight)[0]
    torch.testing.assert_close(together, apart)


def test_a_layer_used_twice_in_one_forward_pass() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(6, 6, weights=4, activations=3)
    x = rows()
    found = []
    for compute in (layer, lambda t: plainly(layer, t)):
        leaf = x.clone().requires_grad_()
        y = compute(torch.relu(compute(leaf)))
        found.append(torch.autograd.grad(y.square().sum(), (leaf, layer.weight)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_two_modules_may_share_one_weight() -> None:
    one, two = QuantLinear(6, 6, weights=4, activations=3), QuantLinear(6, 6, weights=8, activations=8)
    two.weight = one.weight
    found = []
    for first, second in ((one, two), (lambda t: plainly(one, t), lambda t: plainly(two, t))):
        y = second(torch.relu(first(rows())))
        found.append(torch.autograd.grad(y.square().sum(), one.weight)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


class Nested(nn.Module):
    """Branches of different sizes, forward passes inside forward passes: the scratch memory is taken often."""

    def __init__(self) -> None:
        super().__init__()
        options: dict[str, Any] = {"weights": 4, "activations": 3}
        self.wide = QuantLinear(6, 40, **options)
        self.back = QuantLinear(40, 6, **options)
        self.gate = QuantLinear(6, 6, **options)
        self.conv = QuantConv1d(1, 1, 3, padding=1, **options)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.gate(torch.relu(self.back(torch.relu(self.wide(x))))))
        return self.conv((inner + self.gate(x))[:, None])[:, 0]

    def plain(self, x: Tensor) -> Tensor:
        wide, back, gate, conv = (
            lambda t, layer=layer: plainly(layer, t) for layer in (self.wide, self.back, self.gate, self.conv)
        )
        inner = torch.relu(gate(torch.relu(back(torch.relu(wide(x))))))
        return conv((inner + gate(x))[:, None])[:, 0]


def gradients(net: Nested, compute: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    return list(torch.autograd.grad(compute(leaf).square().sum(), (leaf, *net.parameters())))


def test_nested_layers_do_not_disturb_each_other() -> None:
    torch.manual_seed(0)
    net = Nested()
    for ours, expected in zip(gradients(net, net, rows()), gradients(net, net.plain, rows()), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def test_backward_after_two_forward_passes() -> None:
    torch.manual_seed(0)
    net = Nested()
    first, second = rows(4, seed=1), rows(30, seed=2)
    expected = [gradients(net, net, x)[1:] for x in (first, second)]
    y1, y2 = net(first), net(second)
    for y, gradient in ((y1, expected[0]), (y2, expected[1])):
        for ours, theirs in zip(torch.autograd.grad(y.square().sum(), list(net.parameters())), gradient, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_threads_do_not_disturb_each_other() -> None:
    torch.manual_seed(0)
    nets = [Nested() for _ in range(4)]
    inputs = [rows(8 + 8 * i, seed=i) for i in range(4)]
    alone = [gradients(net, net, x) for net, x in zip(nets, inputs, strict=True)]
    found: list[list[list[Tensor]]] = [[] for _ in nets]

    def work(i: int) -> None:
        for _ in range(10):
            found[i].append(gradients(nets[i], nets[i], inputs[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, rounds in zip(alone, found, strict=True):
        assert len(rounds) == 10
        for got in rounds:
            for ours, theirs in zip(got, expected, strict=True):
                torch.testing.assert_close(ours, theirs)


def on_a_new_thread(work: Callable[[], Any]) -> Any:
    """What `work` gives on a thread that has no scratch memory yet."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_training_goes_on_after_an_evaluation_in_inference_mode() -> None:
    layer = QuantLinear(6, 5, weights=4, activations=3)

    def work() -> Tensor:
        with torch.inference_mode():
            layer.eval()(rows())
        y = layer.train()(rows())
        return torch.autograd.grad(y.square().sum(), layer.weight)[0]

    expected = torch.autograd.grad(layer(rows()).square().sum(), layer.weight)[0]
    torch.testing.assert_close(on_a_new_thread(work), expected)


def test_the_default_dtype_and_device_do_not_matter() -> None:
    layer = QuantLinear(6, 5, weights=4, activations=3)

    def work() -> Tensor:
        with torch.device("meta"):
            return layer(x)

    x = rows()
    expected = layer(x)
    torch.set_default_dtype(torch.float64)
    try:
        found = on_a_new_thread(work)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({"weights": 0}, "bits must be in [1, 32], got 0 for weights"),
        ({"activations": 33}, "bits must be in [1, 32], got 33 for activations"),
        ({"gradients": 0.5}, "bits must be in [1, 32], got 0.5 for gradients"),
        ({"weights": "4"}, "bits must be a number in [1, 32], got '4' for weights"),
        ({"weights": [4, 4]}, "bits must be a number in [1, 32], got [4, 4] for weights"),
        ({"activations": None}, "bits must be a number in [1, 32], got None for activations"),
        ({"weights": True}, "bits must be a number in [1, 32], got True for weights"),
        ({"activations": float("nan")}, "bits must be in [1, 32], got nan for activations"),
        ({"quantizer": "lqs"}, "quantizer must be one of uniform, dorefa"),
        ({"quantizer": None}, "quantizer must be one of uniform, dorefa"),
        (
            {"granularity": "chanel"},
            "granularity must be one of channel, tensor, group:SIZE, got 'chanel'; did you mean 'channel'?",
        ),
        ({"granularity": 3}, "granularity must be one of channel, tensor, group:SIZE, got 3"),
    ],
)
@pytest.mark.parametrize("build", [QuantLinear, lambda *shape, **more: QuantConv2d(*shape, 3, **more)])
def test_bad_options_are_refused_in_a_sentence(build: Any, options: dict[str, Any], start: str) -> None:
    with pytest.raises(BitdialError) as caught:
        build(3, 4, **options)
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)
