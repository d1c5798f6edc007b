"""LSQ, ParetoQ's quantizers and PACT: their values, their published starts, and their published gradients, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bitdial.numerics import LsqActivation, LsqWeight, PactActivation, SeqWeight, lsq_weight, seq_weight
from bitdial.numerics.learned_step import WIDTHS

W = torch.tensor([[0.9, -0.4, 0.1, -1.6], [0.05, 0.3, -0.2, 0.25]])
G = torch.tensor([[1.0, -2.0, 3.0, 0.5], [0.25, 4.0, -1.0, 2.0]])


def bits(width: float) -> Tensor:
    return torch.tensor(width)


def learned(module: torch.nn.Module, width: float) -> Tensor:
    """What counts for a width that a module has a state of its own for."""
    start = module.start[module._index(width)] if hasattr(module, "start") else 0.0
    return module.learned_at(width) + start


def set_to(module: torch.nn.Module, width: float, value: float) -> None:
    with torch.no_grad():
        module.learned_at(width).add_(value - learned(module, width))


def learned_gradient(module: torch.nn.Module, width: float) -> Tensor:
    return module.learned_at(width).grad


class TestLsq:
    @pytest.mark.parametrize(("width", "highest"), [(1.585, 1), (2, 1), (3, 3), (4, 7), (8, 127)])
    def test_the_step_begins_as_twice_the_mean_magnitude_over_the_root_of_the_highest_code(
        self, width: float, highest: int
    ) -> None:
        module = LsqWeight(W)
        torch.testing.assert_close(learned(module, width), (2 * W.abs().mean() / math.sqrt(highest)).view(1))
        each = LsqWeight(W, per_channel=True)
        torch.testing.assert_close(learned(each, width), 2 * W.abs().mean(1) / math.sqrt(highest))

    def test_at_one_bit_it_begins_as_the_mean_magnitude(self) -> None:
        torch.testing.assert_close(learned(LsqWeight(W), 1), W.abs().mean().view(1))
        expected = torch.where(W < 0, -1.0, 1.0) * W.abs().mean()
        torch.testing.assert_close(lsq_weight(W, bits(1.0)), expected)

    @pytest.mark.parametrize(
        ("width", "codes"),
        [
            (1.585, [[1, -1, 0, -1], [0, 1, 0, 0]]),
            (2, [[1, -1, 0, -2], [0, 1, 0, 0]]),
            (3, [[2, -1, 0, -3], [0, 1, 0, 0]]),
        ],
    )
    def test_values_are_codes_times_the_step(self, width: float, codes: list[list[int]]) -> None:
        module = LsqWeight(W)
        set_to(module, width, 0.5)
        assert torch.equal(module(W, bits(width)), torch.tensor(codes) * 0.5)

    def test_gradients_are_those_of_the_paper(self) -> None:
        """Two bits, s = .5: codes -2 to 1. v = w / s = 1.8 -.8 .2 -3.2 | .1 .6 -.4 .5."""
        module, w = LsqWeight(W), W.clone().requires_grad_()
        set_to(module, 2, 0.5)
        module(w, bits(2.0)).backward(G)
        inside = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
        assert torch.equal(w.grad, G * inside)
        # -Qn or Qp where it was clipped (eq. 3), round(v) - v where not; times 1 / sqrt(N Qp).
        slopes = torch.tensor([[1, -0.2, -0.2, -2], [-0.1, 0.4, 0.4, -0.5]])
        expected = (G * slopes).sum() / math.sqrt(8 * 1)
        torch.testing.assert_close(learned_gradient(module, 2), expected.view(1))
        others = [width for width in WIDTHS if width != 2]
        assert all(learned_gradient(module, width) is None for width in others)

    def test_a_value_just_at_an_end_counts_as_clipped(self) -> None:
        w = torch.tensor([[0.5, -1.0]]).requires_grad_()
        module = LsqWeight(torch.ones(1, 2))
        set_to(module, 2, 0.5)
        module(w, bits(2.0)).sum().backward()
        assert torch.equal(w.grad, torch.zeros(1, 2))

    def test_a_width_without_a_state_has_a_grid_with_the_ends_of_the_nearest(self) -> None:
        module = LsqWeight(W, widths=[2, 8])
        wide = torch.linspace(-50, 50, 1001)[None]
        for width, nearest in ((3.0, 2.0), (4.9, 2.0), (5.1, 8.0), (6.5, 8.0), (12.0, 8.0)):
            top, its_top = (module(wide, bits(b)).max() for b in (width, nearest))
            torch.testing.assert_close(top, its_top, rtol=1e-5, atol=0.0)

    def test_a_scale_past_zero_counts_by_its_magnitude(self) -> None:
        module = LsqWeight(W)
        set_to(module, 3, 0.3)
        values = module(W, bits(3.0))
        values.backward(G)
        gradient = learned_gradient(module, 3).clone()
        module.zero_grad()
        set_to(module, 3, -0.3)
        assert torch.equal(module(W, bits(3.0)), values)
        module(W, bits(3.0)).backward(G)
        assert torch.equal(learned_gradient(module, 3), -gradient)


class TestSeq:
    def test_it_begins_as_published(self) -> None:
        module = SeqWeight(W, per_channel=True)
        largest = W.abs().amax(1)
        torch.testing.assert_close(learned(module, 1), W.abs().mean(1))
        torch.testing.assert_close(learned(module, 1.585), largest)
        torch.testing.assert_close(learned(module, 2), largest)
        torch.testing.assert_close(learned(module, 3), largest / 3)
        torch.testing.assert_close(learned(module, 4), largest / 7)

    def test_the_levels_of_its_stretched_grids(self) -> None:
        many = torch.linspace(-1, 1, 4001)[None]
        two = seq_weight(many, bits(2.0)).unique()
        torch.testing.assert_close(two, torch.tensor([-0.75, -0.25, 0.25, 0.75]))
        three = seq_weight(many, bits(math.log2(3))).unique()
        torch.testing.assert_close(three, torch.tensor([-2 / 3, 0, 2 / 3]))

    @pytest.mark.parametrize(
        ("width", "codes", "levels"),
        [(2.0, [[0.75, -0.25, 0.25, -0.75]], 4), (math.log2(3), [[2 / 3, -2 / 3, 0.0, -2 / 3]], 3)],
    )
    def test_values_and_gradients_at_two_bits_and_three_levels(
        self, width: float, codes: list[list[float]], levels: int
    ) -> None:
        """a = 1, w = .9 -.4 .1 -1.6; the last is outside .99. Slopes: q - w inside, the end outside."""
        w = W[:1].clone().requires_grad_()
        module = SeqWeight(w.detach(), per_channel=True)
        set_to(module, width, 1.0)
        values = module(w, bits(width))
        torch.testing.assert_close(values, torch.tensor(codes))
        values.backward(G[:1])
        assert torch.equal(w.grad, G[:1] * torch.tensor([[1, 1, 1, 0]]))
        end = (levels - 1) / levels
        slopes = torch.tensor([[codes[0][0] - 0.9, codes[0][1] + 0.4, codes[0][2] - 0.1, -end]])
        expected = (G[:1] * slopes).sum() / math.sqrt(4 * 1)
        torch.testing.assert_close(learned_gradient(module, width), expected.view(1))

    def test_at_one_bit_the_scale_gets_the_signs(self) -> None:
        w = W[:1].clone().requires_grad_()
        module = SeqWeight(w.detach(), per_channel=True)
        values = module(w, bits(1.0))
        scale = W[:1].abs().mean()
        torch.testing.assert_close(values, torch.tensor([[1.0, -1.0, 1.0, -1.0]]) * scale)
        values.backward(G[:1])
        signs = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
        torch.testing.assert_close(learned_gradient(module, 1), ((G[:1] * signs).sum() / 2).view(1))
        assert torch.equal(w.grad, G[:1] * (W[:1].abs() <= scale))

    def test_from_three_bits_it_is_lsq_with_another_start(self) -> None:
        seq, lsq = SeqWeight(W), LsqWeight(W)
        for width in (3, 4, 5, 8):
            set_to(seq, width, 0.11)
            set_to(lsq, width, 0.11)
            assert torch.equal(seq(W, bits(float(width))), lsq(W, bits(float(width))))


X = torch.tensor([[0.0, 0.4, 1.3, 2.6], [0.2, 0.9, 3.5, 0.1]])


class TestActivations:
    def test_pact_clips_and_rounds(self) -> None:
        module = PactActivation()
        module(X, bits(2.0))
        assert module.fitted == 1
        assert module.signed == 0
        torch.testing.assert_close(module.values, torch.full((len(WIDTHS),), 3 * X.square().mean().sqrt().item()))
        set_to(module, 2, 3.0)
        assert torch.equal(module(X, bits(2.0)), torch.tensor([[0.0, 0, 1, 3], [0, 1, 3, 0]]))

    def test_pact_gives_the_clip_the_gradient_of_what_it_clips(self) -> None:
        module, x = PactActivation(), X.clone().requires_grad_()
        module(X, bits(2.0))
        set_to(module, 2, 2.0)
        module(x, bits(2.0)).backward(G)
        assert torch.equal(x.grad, G * (X < 2))
        assert torch.equal(learned_gradient(module, 2), G[X >= 2].sum().view(1))

    def test_lsq_of_activations_starts_from_zero_where_none_is_negative(self) -> None:
        module, x = LsqActivation(), X.clone().requires_grad_()
        module(X, bits(2.0))
        torch.testing.assert_close(learned(module, 2), (2 * X.mean() / math.sqrt(3)).view(1))
        torch.testing.assert_close(learned(module, 4), (2 * X.mean() / math.sqrt(15)).view(1))
        set_to(module, 2, 1.0)
        values = module(x, bits(2.0))
        assert torch.equal(values, torch.tensor([[0.0, 0, 1, 3], [0, 1, 3, 0]]))
        values.backward(G)
        assert torch.equal(x.grad, G * ((X > 0) & (X < 3)))
        slopes = torch.tensor([[0, -0.4, -0.3, 0.4], [-0.2, 0.1, 3, -0.1]])
        expected = (G * slopes).sum() / math.sqrt(4 * 3)  # four features of an example
        torch.testing.assert_close(learned_gradient(module, 2), expected.view(1))

    @pytest.mark.parametrize("make", [LsqActivation, PactActivation])
    def test_negative_values_in_the_first_batch_give_a_grid_on_both_sides(self, make: type) -> None:
        module = make()
        x = torch.linspace(-2, 2, 101)[None]
        values = module(x, bits(3.0))
        assert module.signed == 1
        assert values.min() < 0 < values.max()
        assert 5 <= len(values.unique()) <= 8
        assert len(module(x, bits(1.0)).unique()) == 2

    @pytest.mark.parametrize("make", [LsqActivation, PactActivation])
    def test_only_the_first_training_batch_fits(self, make: type) -> None:
        module = make()
        module.eval()
        start = module.values.clone()
        module(X, bits(4.0))
        assert module.fitted == 0
        assert torch.equal(module.values, start)
        module.train()
        module(X, bits(4.0))
        fitted = module.values.clone()
        assert not torch.equal(fitted, start)
        module(100 * X, bits(4.0))
        assert torch.equal(module.values, fitted)
        module.reset_parameters()
        assert module.fitted == 0
        assert torch.equal(module.values, start)

    @pytest.mark.parametrize("make", [LsqActivation, PactActivation])
    def test_before_a_training_batch_evaluation_fits_to_the_batch_at_hand(self, make: type) -> None:
        module, other = make().eval(), make()
        assert torch.equal(module(X, bits(3.0)), other(X, bits(3.0)))

    @pytest.mark.parametrize("make", [LsqActivation, PactActivation])
    def test_at_32_bits_nothing_happens_and_an_empty_batch_is_no_first_one(self, make: type) -> None:
        module, x = make(), X.clone().requires_grad_()
        assert module(X[:0], bits(4.0)).shape == (0, 4)
        assert module.fitted == 0
        y = module(x, bits(32.0))
        assert torch.equal(y, X)
        y.backward(G)
        assert torch.equal(x.grad, G)
        assert module.fitted == 0
        assert all(each.grad is None for each in module.learned)


@pytest.mark.parametrize("make", [LsqWeight, SeqWeight])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_take_the_plain_path_to_the_same_values(make: type, dtype: torch.dtype) -> None:
    w = (W + 0.013).to(dtype)  # away from ties
    module, plain = make(w, True), make(w.float(), True)
    plain.load_state_dict({name: value.float() for name, value in module.state_dict().items()})
    for width in (1.0, 1.585, 2.0, 3.0, 4.4, 8.0, 32.0):
        values = module(w, bits(width))
        assert values.dtype == dtype
        expected = plain(w.float(), bits(width))
        torch.testing.assert_close(values.float(), expected, rtol=1e-2 if dtype != torch.float64 else 1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [LsqWeight, SeqWeight])
def test_weights_of_nothing_but_zeros_and_no_weights_at_all(make: type) -> None:
    module = make(torch.zeros(3, 4), True)
    assert all((each == 0.5).all() for each in module.learned)
    assert torch.equal(module(torch.zeros(3, 4), bits(3.0)), torch.zeros(3, 4))
    empty = make(torch.zeros(3, 0), True)
    assert empty(torch.zeros(3, 0), bits(3.0)).shape == (3, 0)


@pytest.mark.parametrize("make", [LsqWeight, SeqWeight])
def test_what_is_not_a_number_stays_visible(make: type) -> None:
    module = make(W, True)
    w = W.clone()
    w[0, 1] = math.nan
    values = module(w, bits(3.0))
    assert values[0, 1].isnan()
    assert values.isnan().sum() == 1
