"""The precision range test finds a lower bound, and leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bitdial import BitDial, quantize
from bitdial.data import load_dataset, make_loader
from bitdial.errors import BitdialError
from bitdial.evaluation.range_test import RangeTestRow
from bitdial.models import build_model
from bitdial.recipes.cyclic import PrecisionRangeTest, RangeTestResult
from bitdial.training import Classification, random_state
from tests.recipes.cyclic.tiny import batches, network
from tests.training.running import differences


class Counting(nn.Module):
    """Has what a state dict does not show: a buffer that is not saved, and one that is replaced, not written."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.dropout = nn.Dropout(0.2)
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x.mean()
        return self.inner(self.dropout(x))


def everything(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """All that a range test could have changed."""
    return {
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "buffers": {name: b.detach().clone() for name, b in model.named_buffers()},
        "gradients": {n: torch.zeros(0) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "modes": {name: m.training for name, m in model.named_modules()},
        "dial": BitDial(model).state_dict(),
        "optimizer": None if optimizer is None else _copy(optimizer.state_dict()),
        "random": _copy(random_state()),
    }


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def prepared(kind: str) -> tuple[nn.Module, torch.optim.Optimizer | None]:
    """A model in the midst of training: mixed widths and modes, gradients, and an optimizer with state."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    model = quantize(Counting())
    dial = BitDial(model)
    dial.set([2, 5.5, 32])
    optimizer: torch.optim.Optimizer | None = None
    if kind == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    elif kind == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), 0.01, amsgrad=True)
    for x, y in batches(5, 3):
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        if optimizer is not None:
            optimizer.step()
    model.inner[1].eval()  # a frozen batch norm
    return model, optimizer


@pytest.mark.parametrize("kind", ["none", "sgd", "adamw"])
def test_leaves_everything_bit_for_bit(kind: str) -> None:
    model, optimizer = prepared(kind)
    before = everything(model, optimizer)
    gradients = [p.grad for p in model.parameters()]
    result = PrecisionRangeTest(model, batches(0), optimizer, bits=(2, 8), iterations=6).run()
    assert len(result.rows) == 2
    assert differences(before, everything(model, optimizer)) == []
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))


class Fails:
    """A loader that goes wrong in the middle."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        torch.rand(3)
        random.random()
        np.random.rand()
        yield from batches(0, 3)
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("disk"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("kind", ["none", "sgd", "adamw"])
def test_leaves_everything_when_it_is_torn_down_midway(kind: str, error: BaseException) -> None:
    model, optimizer = prepared(kind)
    before = everything(model, optimizer)
    with pytest.raises(type(error)):
        PrecisionRangeTest(model, Fails(error), optimizer, bits=(4, 8), iterations=6).run()
    assert differences(before, everything(model, optimizer)) == []


def test_every_width_sees_the_same_batches_whoever_shuffles_them() -> None:
    seen: list[float] = []

    class Watching(Classification):
        def logits(self, model: nn.Module, batch: Any) -> Tensor:
            seen.append(float(batch[0].sum()))
            return super().logits(model, batch)

    data = batches(0)
    whole = TensorDataset(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))
    generator = torch.Generator().manual_seed(9)
    for loader in (
        DataLoader(whole, 16, shuffle=True, generator=generator),
        DataLoader(whole, 16, shuffle=True),
    ):
        seen.clear()
        state = generator.get_state()
        PrecisionRangeTest(quantize(network()), loader, bits=(2, 4, 8), iterations=5, task=Watching()).run()
        assert seen[:5] == seen[5:10] == seen[10:]
        assert torch.equal(generator.get_state(), state)


def test_finds_the_first_width_that_learns_on_digits() -> None:
    torch.manual_seed(0)
    data = load_dataset("digits")
    model = quantize(build_model("resnet20", num_classes=10, in_channels=1, image_size=8))
    loader = make_loader(data.train, 64, train=True, seed=0)
    result = PrecisionRangeTest(model, loader, bits=(4, 1, 2, 3), iterations=16, learning_rate=0.1).run()
    assert [row.bits for row in result.rows] == [1, 2, 3, 4]
    progress = [row.progress for row in result.rows]
    assert progress[0] < 0.1 < progress[3]
    assert result.low in (2, 3)
    assert result.low == next(row.bits for row in result.rows if row.progress > 0.1)
    assert result.high >= result.low


def test_bounds_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = {2.0: 0.02, 3.0: 0.3, 4.0: 0.52, 6.0: 0.55, 8.0: 0.5}
    monkeypatch.setattr(
        PrecisionRangeTest, "_train", lambda self, width, optimizer: RangeTestRow(width, 1.0, 1.0, 0.5, progress[width])
    )
    test = PrecisionRangeTest(quantize(network()), batches(0), bits=list(progress), threshold=0.1, saturation=0.05)
    result = test.run()
    assert (result.low, result.high) == (3, 4)
    assert "3      1.0000     1.0000     50.0%     30.0%  <- lowest" in result.table()
    assert "<- highest" in result.table().splitlines()[3]
    test.threshold = 0.9
    assert test.run().low is None


def rows(*progress: float) -> RangeTestResult:
    widths = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
    made = tuple(RangeTestRow(b, 2.3, 1.0, 0.5, p) for b, p in zip(widths, progress, strict=True))
    return RangeTestResult(2.0, 6.0, 0.1, made)


@pytest.mark.parametrize("first", [0.02, float("-inf"), -5.0])
def test_plot_is_a_picture(tmp_path: Path, first: float) -> None:
    path = rows(first, 0.14, 0.5, 0.52, 0.6, 0.64).plot(tmp_path / "range.png")
    pixels = imread(path)[..., :3]
    assert pixels.shape[1] > 900
    assert len(np.unique(pixels @ [1.0, 1e3, 1e6])) > 50


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"bits": ()}, "at least one width"),
        ({"bits": (0,)}, r"\[1, 32\]"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"threshold": 1}, "threshold must be"),
    ],
)
def test_refuses(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(BitdialError, match=says):
        PrecisionRangeTest(quantize(network()), batches(0), **arguments)


def test_refuses_an_iterator_an_empty_loader_and_a_plain_network() -> None:
    with pytest.raises(BitdialError, match="iterator"):
        PrecisionRangeTest(quantize(network()), iter(batches(0)))
    with pytest.raises(BitdialError, match="at least one batch"):
        PrecisionRangeTest(quantize(network()), []).run()
    with pytest.raises(BitdialError, match="quantize"):
        PrecisionRangeTest(network(), batches(0))
