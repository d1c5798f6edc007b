"""Layers that one forward pass calls several times, on inputs of unlike scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.export import load_packed, save_packed
from bitdial.layers import BitDial, cost, quantize, ranges_per_call, reestimate_batch_norm
from tests.layers.nets import Mlp, rows

SCALES = (1.0, 8.0, 0.1)


class Pyramid(nn.Module):
    """A head on three levels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.head = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.head(self.stem(x) * scale) for scale in SCALES]


def pyramid(**quantization: Any) -> nn.Module:
    torch.manual_seed(0)
    return quantize(Pyramid(), 32, 8, skip=("stem",), **quantization)


def errors(model: nn.Module) -> list[float]:
    """Root mean square error of each level in evaluation, in units of the level's deviation."""
    x = rows(64, seed=2)
    right = [nn.functional.linear(model.stem(x) * scale, model.head.weight, model.head.bias) for scale in SCALES]
    found = model.eval()(x)
    return [
        ((one - other).square().mean().sqrt() / other.std()).item() for one, other in zip(found, right, strict=True)
    ]


def test_a_range_per_call_makes_every_level_right() -> None:
    one, own = pyramid(), ranges_per_call(pyramid(), {"head": 3})
    for model in (one, own):
        for seed in range(5):
            model(rows(64, seed=10 + seed))
    assert max(errors(one)) > 0.3
    assert max(errors(own)) < 0.1
    spans = own.head.range_high - own.head.range_low
    for span, scale in zip(spans, SCALES, strict=True):
        assert span.item() == pytest.approx(spans[0].item() * scale, rel=1e-5)
    assert own.head.range_batches.tolist() == [5, 5, 5]


def test_it_equals_a_layer_for_each_level() -> None:
    shared = ranges_per_call(pyramid(), {"he*": 3})
    apart = [pyramid() for _ in SCALES]
    for seed in range(3):
        shared(rows(seed=seed))
        for model, scale in zip(apart, SCALES, strict=True):
            model.head(model.stem(rows(seed=seed)) * scale)
    x = rows(seed=9)
    for found, model, scale in zip(shared.eval()(x), apart, SCALES, strict=True):
        assert torch.equal(found, model.eval().head(model.stem(x) * scale))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(backend: str) -> None:
    plain, model = (ranges_per_call(pyramid(), {"head": 3}) for _ in range(2))
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for seed in range(3):
        for one, other in zip(plain(rows(seed=seed)), compiled(rows(seed=seed)), strict=True):
            torch.testing.assert_close(one, other)
    torch.testing.assert_close(model.head.range_low, plain.head.range_low)
    torch.testing.assert_close(model.head.range_high, plain.head.range_high)
    plain.eval(), model.eval()
    for one, other in zip(plain(rows(seed=7)), compiled(rows(seed=7)), strict=True):
        torch.testing.assert_close(one, other)


def test_it_survives_states_files_devices_resets_and_an_interrupted_pass(tmp_path: Path) -> None:
    model = ranges_per_call(pyramid(), {"head": 3})
    model(rows())
    model.head(rows())  # a pass that went no further
    model.train()
    model(rows(seed=1))
    assert model.head.range_batches.tolist() == [3, 2, 2]  # the stray batch counts, and no level takes another's
    model.double().float()
    fresh = ranges_per_call(pyramid(), {"head": 3})
    fresh.load_state_dict(model.state_dict())
    BitDial(model).set(weights=4)
    packed = load_packed(save_packed(model, tmp_path / "net.safetensors"), ranges_per_call(pyramid(), {"head": 3}))
    BitDial(fresh).set(weights=4)
    for one, other, third in zip(model.eval()(rows()), fresh.eval()(rows()), packed.eval()(rows()), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)
    with pytest.raises(BitdialError, match=r"range_\w+ .*\(3,\)"):
        load_packed(tmp_path / "net.safetensors", pyramid())
    assert reestimate_batch_norm(model, [rows(seed=5)]) == 1
    assert model.head.range_batches.tolist() == [1, 1, 1]
    model.head.reset_range()
    assert model.head.range_batches.tolist() == [0, 0, 0]
    meta = ranges_per_call(pyramid().to("meta"), {"head": 3}).to_empty(device="cpu")
    assert meta.head.range_batches.tolist() == [0, 0, 0]


def test_the_ledger_says_where_one_range_serves_unlike_inputs() -> None:
    ledger = cost(pyramid(), rows())
    assert ledger.unlike == {"head": pytest.approx(80)}
    (finding,) = ledger.findings()
    assert finding.startswith('Layer "head" is called on inputs of which one has 80 times the range of another')
    assert finding in ledger.table()
    assert not cost(ranges_per_call(pyramid(), {"head": 3}), rows()).findings()
    assert not cost(pyramid(quantizer="dorefa"), rows()).findings()  # its range is the same for all
    assert not cost(quantize(Mlp(), 4, 4), rows()).findings()


@pytest.mark.parametrize(
    ("calls", "sentence"),
    [
        ({"head": 0}, "calls of head must be a whole number of 1 or more, got 0"),
        ({"head": 2.5}, "got 2.5"),
        ({"head": True}, "got True"),
        ({"hed": 2}, "layer pattern must match a layer that can be quantized, got 'hed'; did you mean 'head'"),
        ({3: 2}, "a layer pattern must be a text"),
    ],
)
def test_mistakes_change_nothing(calls: Any, sentence: str) -> None:
    model = pyramid()
    with pytest.raises(BitdialError, match=sentence):
        ranges_per_call(model, {"*": 2, **calls})
    assert model.head.range_low.dim() == 0


def test_fixed_ranges_need_none() -> None:
    with pytest.raises(BitdialError, match='layer "head" must have a running range, got activation quantizer dorefa'):
        ranges_per_call(pyramid(quantizer="dorefa"), {"head": 3})


@pytest.mark.parametrize(
    ("model", "calls", "sentence"),
    [
        (3, {"head": 2}, "model must be a torch.nn.Module, got int"),
        (Pyramid(), {"head": 2}, "model must have quantized layers, got none"),
        (pyramid(), None, 'calls must be a mapping such as .*"head": 3.*, got None'),
        (pyramid(), ["head"], r"calls must be a mapping .* got \['head'\]"),
        (pyramid(), {"head": "3"}, "calls of head must be a whole number of 1 or more, got '3'"),
    ],
)
def test_other_arguments_are_refused(model: Any, calls: Any, sentence: str) -> None:
    with pytest.raises(BitdialError, match=sentence):
        ranges_per_call(model, calls)
