"""Ternary quantizers: values by hand and by the papers' formulas, gradients by autograd and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bitdial.numerics import (
    QUANTIZERS,
    TERNARY_BITS,
    LearnedStepWeight,
    LearnedWeight,
    TrainedTernaryWeight,
    absmean_weight,
    get_quantizer,
    learned_step_values,
    ttq_values,
    twn_weight,
)

TERNARY = [name for name, quantizer in QUANTIZERS.items() if quantizer.fixed_bits == TERNARY_BITS]
LEARNED = [name for name in TERNARY if QUANTIZERS[name].make_weight is not None]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
THREE = torch.tensor(TERNARY_BITS)
OFF = torch.tensor(32.0)


def weight(dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return (torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(seed)) * 0.4).to(dtype)


def upstream(like: Tensor, seed: int = 2) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.dtype)


def learned(name: str, w: Tensor, per_channel: bool) -> LearnedWeight:
    make = get_quantizer(name).make_weight
    assert make is not None
    return make(w, per_channel)


def by_groups(w: Tensor, per_channel: bool, rule: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([rule(row) for row in w]) if per_channel else rule(w)


def twn_formula(w: Tensor) -> Tensor:
    """Eq. 3-6 of arXiv 1605.04711, word for word, in float64."""
    wide = w.double()
    delta = 0.7 * wide.abs().mean()
    above = wide.abs() > delta
    return wide.sign() * above * (wide.abs()[above].mean() if above.any() else 0.0)


def absmean_formula(w: Tensor) -> Tensor:
    """Eq. 1-3 of arXiv 2402.17764, word for word, in float64."""
    wide = w.double()
    mean = wide.abs().mean()
    return (wide / mean).round().clamp(-1, 1) * mean


def test_the_ternary_quantizers_are_those_that_are_documented() -> None:
    assert TERNARY == ["twn", "absmean", "ttq", "ternary_lsq"]
    assert LEARNED == ["ttq", "ternary_lsq"]
    assert math.isclose(TERNARY_BITS, 1.584962500721156)


def test_twn_by_hand() -> None:
    w = torch.tensor([[1.0, -0.5, 0.1, 0.4], [-8.0, 4.0, 0.0, 4.0]])
    # Row 0: mean .5, threshold .35, above it 1, .5, .4: their mean is 1.9 / 3. Row 1: 4, 2.8, (8 + 4 + 4) / 3.
    a, b = 1.9 / 3, 16 / 3
    expected = torch.tensor([[a, -a, 0.0, a], [-b, b, 0.0, b]])
    torch.testing.assert_close(twn_weight(w, THREE, True), expected)
    # One scale: mean 2.25, threshold 1.575, above it only the 8 and the 4s of the second row.
    torch.testing.assert_close(twn_weight(w, THREE, False), torch.tensor([[0.0] * 4, [-b, b, 0.0, b]]))


def test_absmean_by_hand() -> None:
    w = torch.tensor([[1.0, -0.5, 0.1, 0.25, 0.4], [0.0, 0.0, 0.0, 0.0, -10.0]])
    # Row 0: mean .45, half of it .225. Row 1: mean 2.
    expected = torch.tensor([[0.45, -0.45, 0.0, 0.45, 0.45], [0.0, 0.0, 0.0, 0.0, -2.0]])
    torch.testing.assert_close(absmean_weight(w, THREE, True), expected)
    # One scale: mean 1.225, half of it .6125.
    expected = torch.tensor([[1.225, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, -1.225]])
    torch.testing.assert_close(absmean_weight(w, THREE, False), expected)


def test_ttq_by_hand() -> None:
    w = torch.tensor([[1.0, 0.06, 0.05, -0.04, -0.2, 0.0]])
    out = ttq_values(w, torch.tensor([0.7]), torch.tensor([0.3]), THREE)  # threshold .05, not reached by .05 itself
    torch.testing.assert_close(out, torch.tensor([[0.7, 0.7, 0.0, 0.0, -0.3, 0.0]]))


def test_ternary_lsq_by_hand() -> None:
    w = torch.tensor([[1.0, 0.3, 0.25, -0.2, -0.26, -5.0]])
    out = learned_step_values(w, torch.tensor([0.5]), THREE)  # ties, at half a step, go to the even code, zero
    torch.testing.assert_close(out, torch.tensor([[0.5, 0.5, 0.0, 0.0, -0.5, -0.5]]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("per_channel", [True, False])
def test_values_are_those_of_the_papers_formulas(per_channel: bool, seed: int) -> None:
    w = weight(seed=seed)
    for quantize, formula in ((twn_weight, twn_formula), (absmean_weight, absmean_formula)):
        torch.testing.assert_close(quantize(w, THREE, per_channel), by_groups(w, per_channel, formula).float())


@pytest.mark.parametrize("name", TERNARY)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_channel", [True, False])
def test_values_are_minus_a_zero_and_b(name: str, dtype: torch.dtype, per_channel: bool) -> None:
    out = get_quantizer(name).weight(weight(dtype), THREE, per_channel)
    for group in out if per_channel else [out]:
        values = group.unique().tolist()
        assert values[0] < 0 < values[-1]
        assert set(values[1:-1]) <= {0.0}
        if name != "ttq":
            assert values == [values[0], 0.0, -values[0]]
    assert not torch.signbit(out[out == 0]).any()  # no -0: packing must bring every bit back


@pytest.mark.parametrize("name", TERNARY)
@pytest.mark.parametrize("bits", [1.0, TERNARY_BITS, 2.0, 8.0, 31.9])
def test_any_width_below_32_is_ternary(name: str, bits: float) -> None:
    quantize = get_quantizer(name).weight
    assert torch.equal(quantize(weight(), torch.tensor(bits), True), quantize(weight(), THREE, True))


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("per_channel", [True, False])
def test_at_32_bits_weights_pass_untouched_and_scales_get_zero(name: str, per_channel: bool) -> None:
    w = weight().requires_grad_()
    module = learned(name, w, per_channel)
    out = module(w, OFF)
    out.backward(upstream(w))
    assert torch.equal(out, w)
    assert torch.equal(w.grad, upstream(w))  # type: ignore[arg-type]
    for parameter in module.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["twn", "absmean"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_without_learned_scales_the_gradient_passes_unchanged(name: str, dtype: torch.dtype) -> None:
    w = weight(dtype).requires_grad_()
    get_quantizer(name).weight(w, THREE, True).backward(upstream(w))
    assert torch.equal(w.grad, upstream(w))  # type: ignore[arg-type]


@pytest.mark.parametrize("per_channel", [True, False])
def test_ttq_scales_follow_finite_differences(per_channel: bool) -> None:
    # The output is linear in both scales, so this is exact but for rounding.
    w, g = weight(torch.float64), upstream(weight(torch.float64))
    start = learned("ttq", w, per_channel).initial(w)
    scales = {name: value.clone().requires_grad_() for name, value in start.items()}
    ttq_values(w, scales["positive"], scales["negative"], THREE, per_channel).backward(g)
    tiny = 1e-6
    for name, scale in scales.items():
        for at in range(scale.numel()):
            losses = []
            for side in (tiny, -tiny):
                moved = {each: value.clone() for each, value in start.items()}
                moved[name][at] += side
                losses.append((ttq_values(w, moved["positive"], moved["negative"], THREE, per_channel) * g).sum())
            slope = (losses[0] - losses[1]) / (2 * tiny)
            torch.testing.assert_close(scale.grad[at], slope, rtol=1e-7, atol=1e-9)  # type: ignore[index]
            assert slope != 0


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_ttq_layer_divides_the_gradients_of_its_scales_by_the_weights_that_share_them(per_channel: bool) -> None:
    w, g = weight(), upstream(weight())
    module = learned("ttq", w, per_channel)
    plain = {name: value.clone().requires_grad_() for name, value in module.initial(w).items()}
    ttq_values(w, plain["positive"], plain["negative"], THREE, per_channel).backward(g)
    module(w, THREE).backward(g)
    sharing = w[0].numel() if per_channel else w.numel()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name].grad / sharing)  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LEARNED)
def test_learned_scales_train_under_sgd_without_batch_norm(name: str, seed: int) -> None:
    """Where nothing normalises, scales that moved faster than the weights would send the network to chance, 25%."""
    torch.manual_seed(seed)
    inputs = torch.randn(256, 16)
    labels = (inputs @ torch.randn(16, 4)).argmax(dim=1)
    first, last = torch.nn.Linear(16, 128), torch.nn.Linear(128, 4)
    hidden = torch.nn.Linear(128, 128)
    scales = learned(name, hidden.weight.detach(), False)
    parameters = [*first.parameters(), *hidden.parameters(), *scales.parameters(), *last.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for _ in range(100):
        middle = torch.nn.functional.linear(first(inputs).relu(), scales(hidden.weight, THREE), hidden.bias)
        loss = torch.nn.functional.cross_entropy(last(middle.relu()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize("per_channel", [True, False])
def test_ttq_weights_get_the_published_gradient(per_channel: bool) -> None:
    # Eq. 8 of arXiv 1612.01064: times Wp above, 1 between, Wn below.
    w, g = weight().requires_grad_(), upstream(weight())
    groups = 5 if per_channel else 1
    positive, negative = torch.linspace(0.4, 0.9, groups), torch.linspace(0.3, 0.1, groups)
    ttq_values(w, positive, negative, THREE, per_channel).backward(g)
    for channel in range(5):
        at = channel if per_channel else 0
        row = w.detach()[channel]
        threshold = 0.05 * (row if per_channel else w.detach()).abs().max()
        factor = torch.where(row > threshold, positive[at], torch.where(row < -threshold, negative[at], 1.0))
        torch.testing.assert_close(w.grad[channel], g[channel] * factor)  # type: ignore[index]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ternary_lsq_gradients_are_those_of_the_straight_through_formula(per_channel: bool, dtype: torch.dtype) -> None:
    # arXiv 1902.08153, appendix B: autograd through s (clip(w / s) + [round - identity]), the bracket held constant.
    w, g = weight(dtype), upstream(weight(dtype))
    groups = 5 if per_channel else 1
    start = torch.linspace(0.3, 0.5, groups, dtype=dtype)
    mine_w, mine_s = w.clone().requires_grad_(), start.clone().requires_grad_()
    out = learned_step_values(mine_w, mine_s, THREE)
    out.backward(g)

    plain_w, plain_s = w.clone().requires_grad_(), start.clone().requires_grad_()
    scale = 1 / math.sqrt(w.numel() / groups * 1)
    step = (plain_s * scale + (plain_s * (1 - scale)).detach()).view(-1, 1, 1, 1)
    clipped = (plain_w / step).clamp(-1, 1)
    plain = (clipped + (clipped.round() - clipped).detach()) * step
    plain.backward(g)
    torch.testing.assert_close(out, plain)
    torch.testing.assert_close(mine_w.grad, plain_w.grad)
    torch.testing.assert_close(mine_s.grad, plain_s.grad)


def test_ternary_lsq_step_follows_finite_differences_where_it_is_smooth() -> None:
    # Every weight clipped: the output is s sign(w), with nothing rounded, and the rule is the true derivative.
    w, g = weight(torch.float64), upstream(weight(torch.float64))
    size = float(w.abs().min()) * 0.5
    step = torch.tensor([size], dtype=torch.float64, requires_grad=True)
    learned_step_values(w, step, THREE).backward(g)
    tiny = size * 1e-3
    ends = [(learned_step_values(w, step.detach() + side, THREE) * g).sum() for side in (tiny, -tiny)]
    slope = (ends[0] - ends[1]) / (2 * tiny)
    torch.testing.assert_close(step.grad[0] * math.sqrt(w.numel()), slope)  # type: ignore[index]


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_channel", [True, False])
def test_every_learned_scale_gets_a_gradient_in_every_dtype(name: str, dtype: torch.dtype, per_channel: bool) -> None:
    w = weight(dtype)
    module = learned(name, w, per_channel)
    (module(w, THREE) * upstream(w)).sum().backward()
    for parameter in module.parameters():
        assert parameter.shape == ((5,) if per_channel else (1,))
        assert parameter.dtype == dtype
        assert (parameter.grad != 0).all()
        assert parameter.grad.isfinite().all()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", TERNARY)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(
    "values", [0.0, 1e-45, -3e-39, 1.0, -3.4e38], ids=["zero", "subnormal", "small", "one", "huge"]
)
def test_constants_of_any_size_and_a_flat_loss_give_no_nan(name: str, per_channel: bool, values: float) -> None:
    w = torch.full((3, 4), values, requires_grad=True)
    quantizer = get_quantizer(name)
    module = quantizer.make_weight(w, per_channel) if quantizer.make_weight else None
    for loss_slope in (0.0, 1.0):
        w.grad = None
        out = module(w, THREE) if module else quantizer.weight(w, THREE, per_channel)
        assert torch.equal(out.detach(), w.detach())  # one magnitude: nothing to round
        out.backward(torch.full_like(w, loss_slope))
        gradients = [w.grad, *(p.grad for p in module.parameters())] if module else [w.grad]
        for gradient in gradients:
            assert gradient.isfinite().all()  # type: ignore[union-attr]
            assert loss_slope or not gradient.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", TERNARY)
def test_mixed_huge_and_small_weights_stay_finite(name: str) -> None:
    w = torch.tensor([[3.4e38, -3.4e38, 3.4e38, 1e-45], [1e-45, -3e-45, 1e-44, 0.0]])
    out = get_quantizer(name).weight(w, THREE, True)
    assert out.isfinite().all()
    assert (out != 0).any(dim=1).all()
    assert out[0, :3].sign().tolist() == [1, -1, 1]
    assert out[1, 2] > 0


@pytest.mark.parametrize("name", TERNARY)
def test_size_is_only_a_factor(name: str) -> None:
    # A power of two changes no rounding, so that even the bits agree.
    quantize = get_quantizer(name).weight
    for power in (-40, 60):
        assert torch.equal(quantize(weight() * 2.0**power, THREE, True), quantize(weight(), THREE, True) * 2.0**power)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0)])
@pytest.mark.parametrize("per_channel", [True, False])
def test_empty_weights_with_learned_scales(name: str, shape: tuple[int, ...], per_channel: bool) -> None:
    w = torch.empty(shape, requires_grad=True)
    module = learned(name, w, per_channel)
    out = module(w, THREE)
    assert out.shape == shape
    out.sum().backward()
    for parameter in module.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))  # type: ignore[arg-type]


def test_ttq_begins_with_least_squares_scales() -> None:
    w = torch.tensor([[1.0, 0.5, -0.2, 0.01], [-2.0, -1.0, 0.0, 0.0]])
    one = TrainedTernaryWeight(w)
    torch.testing.assert_close(one.positive.detach(), torch.tensor([0.75]))  # threshold .1
    torch.testing.assert_close(one.negative.detach(), torch.tensor([3.2 / 3]))
    each = TrainedTernaryWeight(w, per_channel=True)
    torch.testing.assert_close(each.positive.detach(), torch.tensor([0.75, 1.5]))  # none above: that of the other side
    torch.testing.assert_close(each.negative.detach(), torch.tensor([0.2, 1.5]))


def test_ternary_lsq_begins_as_twn() -> None:
    w = weight()
    for per_channel in (True, False):
        scale = twn_weight(w, THREE, per_channel).abs()
        expected = scale.amax((1, 2, 3)) if per_channel else scale.max().view(1)
        torch.testing.assert_close(LearnedStepWeight(w, per_channel).step.detach(), expected)


@pytest.mark.parametrize("name", LEARNED)
def test_weights_of_zero_begin_with_the_scale_of_fresh_weights(name: str) -> None:
    for per_channel in (True, False):
        for parameter in learned(name, torch.zeros(3, 2, 5, 5), per_channel).parameters():
            torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, 1 / math.sqrt(50)))


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("per_channel", [True, False])
def test_reset_fits_the_scales_to_other_weights_in_place(name: str, per_channel: bool) -> None:
    module = learned(name, weight(), per_channel)
    before = list(module.parameters())
    module.reset(weight(seed=9))
    for kept, now, fresh in zip(before, module.parameters(), learned(name, weight(seed=9), per_channel).parameters()):  # noqa: B905
        assert kept is now
        assert torch.equal(now, fresh)


@pytest.mark.parametrize("name", LEARNED)
def test_a_scale_that_an_optimizer_carried_past_zero_is_reflected(name: str) -> None:
    w, g = weight(), upstream(weight())
    plus, minus = learned(name, w, True), learned(name, w, True)
    with torch.no_grad():
        for parameter in minus.parameters():
            parameter.neg_()
    left, right = plus(w, THREE), minus(w, THREE)
    assert torch.equal(left, right)
    (left * g).sum().backward()
    (right * g).sum().backward()
    for one, other in zip(plus.parameters(), minus.parameters(), strict=True):
        assert torch.equal(one.grad, -other.grad)  # type: ignore[arg-type,operator]


@pytest.mark.parametrize("name", LEARNED)
def test_a_scale_of_zero_can_leave_it(name: str) -> None:
    w = weight()
    module = learned(name, w, False)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    out = module(w, THREE)
    assert not torch.signbit(out[out == 0]).any()
    (out * w).sum().backward()
    for parameter in module.parameters():
        assert parameter.grad.isfinite().all()  # type: ignore[union-attr]
        assert (parameter.grad != 0).all()


@pytest.mark.parametrize("name", LEARNED)
def test_turning_the_dial_before_backward_keeps_the_width_of_the_forward_pass(name: str) -> None:
    w, bits = weight(), torch.tensor(2.0)
    module = learned(name, w, True)
    out = module(w, bits)
    bits.fill_(32.0)
    out.backward(upstream(w))
    for parameter in module.parameters():
        assert (parameter.grad != 0).all()


@pytest.mark.parametrize("name", LEARNED)
def test_a_scale_that_is_not_a_number_is_not_hidden(name: str) -> None:
    module = learned(name, weight(), False)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(math.nan)
    assert module(weight(), THREE).isnan().any()


@pytest.mark.parametrize("name", TERNARY)
def test_training_moves_a_layer_to_its_target(name: str) -> None:
    # A ternary target: latent weights and scales must find it from elsewhere, through their gradients alone.
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(-1, 2, (4, 16), generator=generator) * 0.8
    w = (torch.randn(4, 16, generator=generator) * 0.3).requires_grad_()
    quantizer = get_quantizer(name)
    module = quantizer.make_weight(w, False) if quantizer.make_weight else None
    optimizer = torch.optim.Adam([w, *(module.parameters() if module else [])], lr=0.02)
    losses = []
    for _ in range(120):
        out = module(w, THREE) if module else quantizer.weight(w, THREE, False)
        loss = (out - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("name", TERNARY)
def test_one_graph_serves_every_width(name: str) -> None:
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    quantizer, w = get_quantizer(name), weight().requires_grad_()
    module = quantizer.make_weight(w, True) if quantizer.make_weight else None

    def forward(w: Tensor, bits: Tensor) -> Tensor:
        return module(w, bits) if module else quantizer.weight(w, bits, True)

    compiled = torch.compile(forward, backend=count, fullgraph=True)
    for bits in (TERNARY_BITS, 4.0, 32.0):
        out = compiled(w, torch.tensor(bits))
        assert torch.equal(out, forward(w, torch.tensor(bits)))
        out.sum().backward()
    assert len(graphs) == 1
    torch._dynamo.reset()
