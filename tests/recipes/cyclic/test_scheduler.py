"""The scheduler turns the dial as the configuration says, in any loop."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import bitdial
from bitdial import BitDial, quantize
from bitdial.errors import BitdialError
from bitdial.recipes.cyclic import CyclicPrecisionConfig, CyclicPrecisionScheduler
from tests.recipes.cyclic.tiny import LAYERS, batches, network


def scheduler(gradients: float | None = None, **changes: Any) -> CyclicPrecisionScheduler:
    return CyclicPrecisionScheduler(quantize(network(), gradients=gradients), CyclicPrecisionConfig(**changes))


def walk(made: CyclicPrecisionScheduler, steps: int) -> list[list[float]]:
    """The widths of each layer, read from the model itself, at each of the first steps."""
    seen = []
    for _ in range(steps):
        assert made.dial.weights == made.dial.activations == pytest.approx(made.bits)  # the model holds float32
        seen.append(made.dial.weights)
        made.step()
    return seen


def first_layer(made: CyclicPrecisionScheduler, steps: int) -> list[float]:
    return [bits[0] for bits in walk(made, steps)]


def test_is_public_at_the_top_too() -> None:
    assert bitdial.CyclicPrecisionScheduler is CyclicPrecisionScheduler


def test_pattern_is_stretched_evenly_over_the_cycle() -> None:
    widths = walk(scheduler(cycle_length=10), 13)
    assert widths == [[b] * LAYERS for b in (8, 8, 4, 4, 2, 2, 4, 4, 8, 8, 8, 8, 4)]


def test_reverse_runs_every_second_cycle_backwards() -> None:
    made = scheduler(bit_width_pattern=[8, 4, 2], cycle_length=3, use_reverse_cycle=True)
    assert first_layer(made, 9) == [8, 4, 2, 2, 4, 8, 8, 4, 2]


def test_smooth_transitions_pass_through_fractional_widths() -> None:
    made = scheduler(bit_width_pattern=[8, 4], cycle_length=8, smooth_transitions=True, transition_steps=4)
    assert first_layer(made, 9) == [8, 8, 8, 8, 7, 6, 5, 4, 5]


def test_progressive_lowers_the_widths_from_cycle_to_cycle_down_to_the_lowest() -> None:
    made = scheduler(bit_width_pattern=[8, 4], cycle_length=2, progressive_cycles=True, progression_rate=0.5)
    assert first_layer(made, 8) == [8, 4, 4, 4, 4, 4, 4, 4]
    made = scheduler(bit_width_pattern=[8, 2], cycle_length=2, progressive_cycles=True, progression_rate=0.9)
    assert first_layer(made, 6) == pytest.approx([8, 2, 7.2, 2, 6.48, 2])


def test_layer_wise_reads_the_schedule_ahead() -> None:
    made = scheduler(bit_width_pattern=[8, 4, 2], cycle_length=3, layer_wise_cycling=True, layer_cycle_offset=1)
    assert walk(made, 4) == [[8, 4, 2], [4, 2, 8], [2, 8, 4], [8, 4, 2]]
    made = scheduler(bit_width_pattern=[8, 4, 2], cycle_length=3, layer_wise_cycling=False, layer_cycle_offset=1)
    assert walk(made, 1) == [[8, 8, 8]]


def test_profile_is_the_published_form() -> None:
    made = scheduler(profile="cosine_repeated", bit_width_pattern=[3, 8], cycle_length=8)
    # rint(3 + 5/2 (1 + cos(pi t/8 + pi))): 3, 3.19, 3.73, 4.54, 5.5 (to the even 6 by rint), 6.46, 7.27, 7.81
    assert first_layer(made, 9) == [3, 3, 4, 5, 6, 6, 7, 8, 3]


def test_position_cycle_and_boundary() -> None:
    made = scheduler(bit_width_pattern=[8, 2], cycle_length=3)
    seen = []
    for _ in range(7):
        seen.append((made.cycle, made.position, made.at_cycle_boundary))
        made.step()
    assert seen == [
        (0, 0, True), (0, 1, False), (0, 2, False), (1, 0, True), (1, 1, False), (1, 2, False), (2, 0, True),
    ]  # fmt: skip


def test_learning_rate_factor_follows_the_mean_width() -> None:
    made = scheduler(bit_width_pattern=[2, 4, 6, 8, 16], cycle_length=5, adjust_lr_with_bits=True)
    seen = []
    for _ in range(5):
        seen.append(made.lr_scale)
        made.step()
    assert seen == [0.5, 0.75, 0.875, 1.0, 1.0]  # 6 bits: half-way between .75 at 4 and 1 at 8
    layered = scheduler(
        bit_width_pattern=[2, 4, 6], cycle_length=3, adjust_lr_with_bits=True, layer_wise_cycling=True,
        layer_cycle_offset=1,
    )  # fmt: skip
    assert layered.lr_scale == 0.75  # the mean of 2, 4 and 6
    assert scheduler(bit_width_pattern=[2]).lr_scale == 1.0


def test_gradient_bits_are_held() -> None:
    made = scheduler(gradients=32, gradient_bits=6)
    walk(made, 3)
    assert made.dial.gradients == [6.0] * LAYERS
    with pytest.raises(BitdialError, match="gradients"):
        scheduler(gradients=None, gradient_bits=6)


def test_state_is_plain_numbers_and_takes_up_where_it_was() -> None:
    made, steps = scheduler(cycle_length=7), 9
    walk(made, steps)
    state = json.loads(json.dumps(made.state_dict()))
    assert state == {"iteration": steps}
    other = scheduler(cycle_length=7)
    other.load_state_dict(state)
    assert (other.cycle, other.position, other.bits) == (made.cycle, made.position, made.bits)
    assert walk(other, 10) == walk(made, 10)


@pytest.mark.parametrize("state", [{}, {"iteration": -1}, {"iteration": 1.5}, {"iteration": True}])
def test_a_strange_state_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(BitdialError, match="iteration"):
        scheduler().load_state_dict(state)


def test_takes_a_dial_as_well_as_a_model_and_refuses_a_plain_network() -> None:
    dial = BitDial(quantize(network()))
    assert CyclicPrecisionScheduler(dial).dial is dial
    with pytest.raises(BitdialError, match="quantize"):
        CyclicPrecisionScheduler(network())


def test_does_not_touch_random_numbers_and_is_the_same_everywhere() -> None:
    """No rank, no clock, no generator goes into the widths: two processes that count alike turn alike."""
    before = torch.get_rng_state()
    one = walk(scheduler(layer_wise_cycling=True, smooth_transitions=True), 30)
    torch.manual_seed(77)
    other = walk(scheduler(layer_wise_cycling=True, smooth_transitions=True), 30)
    assert one == other
    torch.set_rng_state(before)
    made = scheduler()
    state = torch.get_rng_state()
    walk(made, 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_works_in_a_plain_loop() -> None:
    torch.manual_seed(0)
    model: nn.Module = quantize(network())
    made = CyclicPrecisionScheduler(
        model, CyclicPrecisionConfig(bit_width_pattern=[8, 4], cycle_length=4, adjust_lr_with_bits=True)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, seen = [], []
    for x, y in batches(0, 40):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * made.lr_scale
        seen.append(made.bits[0])
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made.step()
        losses.append(loss.item())
    assert seen[:6] == [8, 8, 4, 4, 8, 8]
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])
