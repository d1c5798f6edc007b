"""A network small enough to train in milliseconds, its data, and a plain loop that the trainers must agree with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bitdial import quantize
from bitdial.layers import BitDial
from bitdial.recipes.cyclic import CyclicPrecisionConfig, CyclicPrecisionScheduler

BATCHES = 5
CYCLE = CyclicPrecisionConfig(bit_width_pattern=[8, 4, 2], cycle_length=6)
SCALED = CyclicPrecisionConfig(bit_width_pattern=[8, 4, 2], cycle_length=6, adjust_lr_with_bits=True)
WIDTHS = [8, 8, 4, 4, 2, 2]
RATE, DECAY, MOMENTUM = 0.1, 0.9, 0.9


def network() -> nn.Sequential:
    """Two parts, `encoder` and `head`, with two quantized layers and one."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    model = nn.Sequential()
    model.add_module("encoder", encoder)
    model.add_module("head", nn.Linear(8, 3))
    return quantize(model, skip=())


def batch(epoch: int, index: int) -> tuple[Tensor, Tensor]:
    """A pure function of its place in the run."""
    generator = torch.Generator().manual_seed(1000 * epoch + index)
    return torch.randn(6, 4, generator=generator), torch.randint(0, 3, (6,), generator=generator)


class Loader:
    """A different order every epoch, and resumable within one."""

    def __init__(self) -> None:
        self.epoch, self.index = 0, 0

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while self.index < BATCHES:
            self.index += 1
            yield batch(self.epoch, self.index - 1)
        self.epoch, self.index = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "index": self.index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.index = state["epoch"], state["index"]


def plain_loop(steps: int, config: CyclicPrecisionConfig, accumulate: int = 1) -> nn.Module:
    """What the trainers must come to: the loop that anybody would write, learning rates from their formula."""
    model = network()
    scheduler = CyclicPrecisionScheduler(model, config)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM)
    batches = (batch(epoch, index) for epoch in range(1000) for index in range(BATCHES))
    for step in range(steps):
        in_epoch = step % -(-BATCHES // accumulate) * accumulate
        for _ in range(min(accumulate, BATCHES - in_epoch)):
            x, y = next(batches)
            (nn.functional.cross_entropy(model(x), y) / accumulate).backward()
        optimizer.param_groups[0]["lr"] = RATE * DECAY**step * scheduler.lr_scale
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return model


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    """Compare bit for bit, in the order of parameters."""
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def standing(model: nn.Module) -> float:
    """The one width at which all layers stand."""
    dial = BitDial(model)
    (width,) = {*dial.weights, *dial.activations}
    return width
