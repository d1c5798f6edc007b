"""Gradient checkpointing (activations computed again in the backward pass) and a dial that moves meanwhile."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, create_selective_checkpoint_contexts

from bitdial.layers import BitDial, QuantizedLayer, quantize
from tests.layers.nets import rows


class Blocks(nn.Module):
    """Blocks with a layer that is called twice and one whose weight is read, each checkpointed or not."""

    def __init__(self, checkpointed: str = "") -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)]) for _ in range(3))
        self.checkpointed = checkpointed

    def block(self, index: int, x: Tensor) -> Tensor:
        twice, read = self.blocks[index]
        x = torch.tanh(twice(torch.tanh(twice(x))))
        return torch.tanh(functional.linear(x, read.weight, read.bias))

    def both(self, x: Tensor) -> Tensor:
        x = checkpoint(self.block, 1, x, use_reentrant=False)
        return checkpoint(self.block, 2, x, use_reentrant=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.checkpointed:
            for index in range(3):
                x = self.block(index, x)
            return x
        if self.checkpointed == "nested":
            return checkpoint(self.both, checkpoint(self.block, 0, x, use_reentrant=False), use_reentrant=False)
        for index in range(3):
            x = checkpoint(self.block, index, x, use_reentrant=self.checkpointed == "reentrant")
        return x


def pair(kind: str, quantizer: str = "uniform", **more: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = quantize(Blocks(), 3, 4, quantizer=quantizer, skip=(), **more)
    checkpointed = copy.deepcopy(plain)
    checkpointed.checkpointed = kind
    return plain, checkpointed


def same(plain: nn.Module, checkpointed: nn.Module) -> None:
    for (name, one), (_, other) in zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True):
        # Close: several passes may add up in another order. Another width moves a gradient by percents.
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5 * one.grad.abs().max().item(), msg=name)
        one.grad = other.grad = None
    for (name, one), (_, other) in zip(plain.named_buffers(), checkpointed.named_buffers(), strict=True):
        assert torch.equal(one, other), name


def dial_set(*bits: float) -> Callable[[nn.Module], None]:
    def run(model: nn.Module) -> None:
        for width in bits:
            BitDial(model).set(width)

    return run


def held(model: nn.Module) -> None:
    with BitDial(model).held(8), torch.no_grad():
        model(rows(seed=3).requires_grad_())


def one_layer(model: nn.Module) -> None:
    BitDial(model).set(weights=2, layers="blocks.1.*")
    BitDial(model).set(activations=2, layers="blocks.0.0")


BETWEEN = {
    "turned": dial_set(8),
    "turned twice": dial_set(8, 2),
    "away and back": dial_set(2, 4, 3),
    "held for a teacher": held,
    "one layer": one_layer,
    "to 32": dial_set(32),
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # the teacher's pass has no gradient
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("quantizer", ["uniform", "dorefa", "ttq"])
@pytest.mark.parametrize("kind", ["reentrant", "not reentrant", "nested"])
def test_the_gradient_is_that_of_the_forward_pass_that_was_taken(kind: str, quantizer: str, between: str) -> None:
    models = pair(kind, quantizer)
    for step in range(2):
        for model in models:
            BitDial(model).set(weights=3 + step, activations=4)
            loss = model(rows(seed=step).requires_grad_()).square().sum()
            BETWEEN[between](model)
            loss.backward()
        same(*models)


@pytest.mark.parametrize("kind", ["reentrant", "not reentrant", "nested"])
def test_a_loss_over_several_widths(kind: str) -> None:
    models = pair(kind)
    for model in models:
        total = torch.zeros(())
        for width in (2, 8, 4, 32, 3):
            BitDial(model).set(width)
            total = total + model(rows().requires_grad_()).square().sum() * width
        total.backward()
    same(*models)


@pytest.mark.parametrize("kind", ["reentrant", "not reentrant", "nested"])
def test_a_range_counts_each_batch_once(kind: str) -> None:
    models = pair(kind)
    for model in models:
        model(rows().requires_grad_()).sum().backward()
    same(*models)
    counts = [m.range_batches.item() for m in models[1].modules() if isinstance(m, QuantizedLayer)]
    assert counts == [2, 0] * 3  # called twice; read


def test_rounded_gradients_keep_their_width() -> None:
    models = pair("not reentrant", gradients=4)
    for model in models:
        loss = model(rows().requires_grad_()).square().sum()
        BitDial(model).set(gradients=32)
        torch.manual_seed(0)
        loss.backward()
    same(*models)


def test_a_sequential_in_parts() -> None:
    torch.manual_seed(0)
    plain = quantize(nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4))), 3, 3, skip=())
    other = copy.deepcopy(plain)
    for model, run in ((plain, plain), (other, lambda x: checkpoint_sequential(other, 2, x, use_reentrant=False))):
        loss = run(rows()).square().sum()
        BitDial(model).set(6)
        loss.backward()
    same(plain, other)


def test_a_dial_written_by_hand_between_is_read_when_turned_next() -> None:
    models = pair("not reentrant")
    for model in models:
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, QuantizedLayer):
                    layer.weight_bits.fill_(5)
        loss = model(rows().requires_grad_()).square().sum()
        BitDial(model).set(2)
        loss.backward()
    same(*models)


def test_turns_far_back_are_forgotten_but_nothing_grows() -> None:
    model = quantize(Blocks("not reentrant"), 3, 3, skip=())
    for step in range(200):
        BitDial(model).set(2 + step % 3)
    layer = model.blocks[0][0]
    assert len(layer._turns) == 64
    BitDial(model).set(4)
    before = len(layer._turns), layer._turns[-1]
    for _ in range(3):
        BitDial(model).set(4)
    assert (len(layer._turns), layer._turns[-1]) == before


@pytest.mark.parametrize("again", [lambda models: models, lambda models: pickle.loads(pickle.dumps(models))])
def test_turns_do_not_count_where_nodes_are_numbered_anew(again: Callable[[Any], Any]) -> None:
    """In another thread; or in another process, into which a whole model was loaded."""
    models = pair("not reentrant")
    node = torch.ones((), requires_grad=True)
    for _ in range(100):
        node = node * 1.0
    for model in models:
        for width in (2, 8, 3):
            BitDial(model).set(width)
    models = again(models)

    def train() -> None:
        for model in models:
            loss = model(rows().requires_grad_()).square().sum()
            BitDial(model).set(6)
            loss.backward()

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    same(*models)


@pytest.mark.parametrize("bits", [3, 8])
def test_outputs_that_selective_checkpointing_keeps(bits: float) -> None:
    models = pair("")
    for model in models:
        run: Callable[[Tensor], Tensor] = model
        if model is models[1]:
            keep = partial(create_selective_checkpoint_contexts, [torch.ops.aten.addmm.default])
            run = partial(checkpoint, model, use_reentrant=False, context_fn=keep)
        loss = run(rows().requires_grad_()).square().sum()
        BitDial(model).set(weights=bits)
        loss.backward()
    same(*models)
