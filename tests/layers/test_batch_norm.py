"""Re-estimated statistics are the plain average over the batches, at the width in force, and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers import BitDial, QuantLinear, quantize, reestimate_batch_norm
from tests.layers.nets import ResidualNet, images


def batches(n: int = 14) -> list[Tensor]:
    return [images(4, seed=i) * (1 + 0.1 * i) for i in range(n)]


def trained() -> nn.Module:
    torch.manual_seed(0)
    model = quantize(ResidualNet(), 4, 4, skip=())
    for x in batches(3):
        model(x)
    return model


def test_statistics_are_the_plain_average_by_hand() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.1))
    used = reestimate_batch_norm(model, batches())
    means = torch.stack([x.mean((0, 2, 3)) for x in batches()])
    variances = torch.stack([x.var((0, 2, 3), unbiased=True) for x in batches()])
    assert used == 14
    torch.testing.assert_close(model[0].running_mean, means.mean(0))
    torch.testing.assert_close(model[0].running_var, variances.mean(0))
    assert model[0].num_batches_tracked.item() == 14
    assert model[0].momentum == 0.1


def test_ranges_are_the_plain_average_too_over_more_than_ten_batches() -> None:
    layer = QuantLinear(8, 2, weights=4, activations=4)
    given = [x.flatten(2).mean(1)[:, :8] for x in batches(25)]
    layer(given[0] * 100)  # what was seen before counts no more
    reestimate_batch_norm(nn.Sequential(layer), given)
    torch.testing.assert_close(layer.range_low, torch.stack([x.min() for x in given]).mean())
    torch.testing.assert_close(layer.range_high, torch.stack([x.max() for x in given]).mean())
    assert layer.range_batches.item() == 25
    before = layer.range_high.clone()
    layer.train()(given[0] * 100)
    assert layer.range_high > before + 1  # training goes on at its usual momentum


class Routed(nn.Module):
    """Two experts; an example goes to the second where its first pixel is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        second = x[:, 0, 0, 0] < 0
        return torch.cat([self.experts[0](x[~second]), self.experts[1](x[second])])


def test_an_expert_without_an_example_keeps_what_it_knew() -> None:
    torch.manual_seed(0)
    model = quantize(Routed(), 4, 4, skip=())
    up, down = images(4, seed=0).abs() + 1, -images(4, seed=1).abs() - 1
    model(torch.cat([up, down]))
    kept = [buffer.clone() for buffer in model.experts[1].buffers()]
    reestimate_batch_norm(model, [3 * up, 2 * up])
    assert all(torch.equal(buffer, before) for buffer, before in zip(model.experts[1].buffers(), kept, strict=True))
    conv, norm = model.experts[0]
    assert (conv.range_batches, norm.num_batches_tracked) == (2, 2)
    torch.testing.assert_close(conv.range_high, 2.5 * up.max())


def test_batches_without_an_example_do_not_count() -> None:
    with_empty, without = trained(), trained()
    given = batches(5)
    reestimate_batch_norm(without, given)
    reestimate_batch_norm(with_empty, [given[0][:0], *given[:2], given[0][:0], *given[2:]])
    for buffer, expected in zip(with_empty.buffers(), without.buffers(), strict=True):
        assert torch.equal(buffer, expected)


def test_norms_may_be_called_by_keyword() -> None:
    norm = nn.BatchNorm2d(3)
    given = batches(3)
    reestimate_batch_norm(norm, given, forward=lambda model, x: model(input=x))
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in given]).mean(0))


def test_statistics_belong_to_the_width_in_force() -> None:
    model = trained()
    dial = BitDial(model)
    found = {}
    for bits in (2, 8):
        dial.set(bits)
        reestimate_batch_norm(model, batches())
        found[bits] = model.bn2.running_var.clone()
        inputs: list[Tensor] = []
        handle = model.bn2.register_forward_pre_hook(lambda _, x, inputs=inputs: inputs.append(x[0]))
        copied = copy.deepcopy(model).train()
        for x in batches():
            copied(x)
        handle.remove()
        expected = torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0)
        torch.testing.assert_close(found[bits], expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found[2], found[8], rtol=0.05)


def test_only_statistics_change() -> None:
    model = trained()
    model.bn1.eval()
    model.conv2.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reestimate_batch_norm(model, batches())
    assert {name: module.training for name, module in model.named_modules()} == modes
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    kinds = {name.rsplit(".", 1)[1] for name in changed}
    assert kinds == {"running_mean", "running_var", "num_batches_tracked", "range_low", "range_high", "range_batches"}
    assert all(p.grad is None for p in model.parameters())


def test_dropout_stays_off() -> None:
    drop = nn.Dropout(0.9)
    model = nn.Sequential(drop, nn.BatchNorm2d(3)).train()
    reestimate_batch_norm(model, batches())
    expected = torch.stack([x.mean((0, 2, 3)) for x in batches()]).mean(0)
    torch.testing.assert_close(model[1].running_mean, expected)
    assert drop.training


@pytest.mark.parametrize("limit", [1, 5, 14, 100])
def test_limit_reads_no_more_batches_than_it_says(limit: int) -> None:
    read: list[int] = []

    def stream() -> Iterator[Tensor]:
        for i, x in enumerate(batches()):
            read.append(i)
            yield x

    assert reestimate_batch_norm(nn.BatchNorm2d(3), stream(), limit=limit) == min(limit, 14)
    assert len(read) == min(limit, 14)


def test_batches_of_inputs_and_labels_and_of_other_forms() -> None:
    expected = nn.BatchNorm2d(3)
    reestimate_batch_norm(expected, batches())
    for given, options in (
        ([(x, 0) for x in batches()], {}),
        ([[x, 0] for x in batches()], {}),
        ([{"image": x} for x in batches()], {"forward": lambda model, batch: model(batch["image"])}),
    ):
        norm = nn.BatchNorm2d(3)
        reestimate_batch_norm(norm, given, **options)
        assert torch.equal(norm.running_mean, expected.running_mean)


def test_norms_without_running_statistics_are_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3))
    assert reestimate_batch_norm(model, batches(2)) == 2


def test_a_wrapped_model() -> None:
    norm = nn.BatchNorm2d(3)
    reestimate_batch_norm(nn.DataParallel(norm), batches())
    assert norm.num_batches_tracked.item() == 14


def test_a_failure_half_way_leaves_everything_as_it_was() -> None:
    model = trained()
    model.bn1.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        reestimate_batch_norm(model, [*batches(2), torch.zeros(2, 5, 8, 8)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.bn1.momentum == 0.1
    assert model.conv1.range_momentum == 0.1


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([], {}, "batches must hold at least one batch to estimate statistics from, got none"),
        (iter(()), {}, "batches must hold at least one batch"),
        (None, {}, "batches must be an iterable of batches, got NoneType"),
        (3, {}, "batches must be an iterable of batches, got int"),
        ("loader", {}, "batches must be an iterable of batches, got str"),
        (images(), {}, "batches must be an iterable of batches, got Tensor; pass a loader or a list of batches"),
        (nn.Identity(), {}, "batches must be an iterable of batches, got Identity"),
        (batches(2), {"limit": 0}, "limit must be a whole number from 1 up, or None for all batches, got 0"),
        (batches(2), {"limit": -1}, "limit must be a whole number from 1 up, or None for all batches, got -1"),
        (batches(2), {"limit": 1.5}, "limit must be a whole number from 1 up, or None for all batches, got 1.5"),
        (batches(2), {"limit": "2"}, "limit must be a whole number from 1 up, or None for all batches, got '2'"),
        (batches(2), {"limit": True}, "limit must be a whole number from 1 up, or None for all batches, got True"),
    ],
)
def test_bad_input_changes_nothing_and_says_why(given: Any, options: dict[str, Any], message: str) -> None:
    norm = nn.BatchNorm2d(3)
    norm(images())
    before = norm.running_mean.clone()
    with pytest.raises(BitdialError) as caught:
        reestimate_batch_norm(norm, given, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(norm.running_mean, before)
    assert norm.training


@pytest.mark.parametrize("model", ["resnet18", None, nn.Linear, {}])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(BitdialError, match=r"^model must be a torch.nn.Module, got "):
        reestimate_batch_norm(model, batches(1))
