"""One compiled graph for training and one for evaluation, whatever the widths, and the same results as eager mode."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from bitdial.layers import BitDial, cost, quantize, reestimate_batch_norm
from tests.layers.nets import Mlp, ResidualNet, images, rows

WHOLE = [float(bits) for bits in (*range(1, 17), 32)]
FRACTIONS = [1.58, 2.32, 3.5, 5.3, 7.9, 20.0]
QUANTIZERS = ["uniform", "dorefa"]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def turn(dial: BitDial, widths: list[float], step: int) -> None:
    """Each layer, and its weights and activations, at another width."""
    n = len(widths)
    dial.set(
        weights=[widths[(step + layer) % n] for layer in range(len(dial))],
        activations=[widths[(step + 2 * layer + 3) % n] for layer in range(len(dial))],
    )


def train(model: nn.Module, callable_model: nn.Module, widths: list[float]) -> list[Tensor]:
    """A step at each width; gradients of every step."""
    dial, seen = BitDial(model), []
    model.train()
    for step in range(len(widths)):
        turn(dial, widths, step)
        model.zero_grad()
        callable_model(images(4, seed=step)).square().sum().backward()
        seen += [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return seen


def evaluate(model: nn.Module, callable_model: nn.Module, widths: list[float]) -> list[Tensor]:
    """Outputs at each width."""
    dial, seen = BitDial(model), []
    model.eval()
    with torch.no_grad():
        for step in range(len(widths)):
            turn(dial, widths, step)
            seen.append(callable_model(images(4, seed=step)))
    return seen


def two_graphs_as_in_eager_mode(backend: str, quantizer: str, gradients: float | None) -> None:
    torch.manual_seed(0)
    model = quantize(ResidualNet(), 8, 8, gradients, quantizer=quantizer, skip=())
    eager = copy.deepcopy(model)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(model, backend=counter, fullgraph=True)

    # At 32 bits gradients are not rounded at random, so that both can be compared; a step as a whole, since a value
    # at a tie may fall to either side.
    some = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 3.5]
    for either in (model, eager):
        BitDial(either).set(gradients=32)
    compared = [(train(model, compiled, some), train(eager, eager, some))]
    assert counter.frame_count == 1
    compared.append((evaluate(model, compiled, some), evaluate(eager, eager, some)))
    assert counter.frame_count == 2
    for ours, theirs in compared:
        assert len(ours) == len(theirs) > 0
        for got, expected in zip(ours, theirs, strict=True):
            assert (got - expected).norm() <= 0.02 * expected.norm() + 1e-3
    for got, expected in zip(model.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)

    # Every width with rounded gradients, and the odd jobs of a run in between: nothing is compiled again.
    if gradients is not None:
        BitDial(model).set(gradients=gradients)
    for widths in (WHOLE, FRACTIONS):
        assert all(g.isfinite().all() for g in train(model, compiled, widths))
        assert all(y.isfinite().all() for y in evaluate(model, compiled, widths))
        reestimate_batch_norm(compiled, [images(4)] * 2)
        cost(compiled, images(1))
    assert counter.frame_count == 2


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_one_training_and_one_evaluation_graph_near_eager_mode(quantizer: str) -> None:
    two_graphs_as_in_eager_mode("aot_eager", quantizer, gradients=8)


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [8, None])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_inductor_one_training_and_one_evaluation_graph_near_eager_mode(
    quantizer: str, gradients: float | None
) -> None:
    two_graphs_as_in_eager_mode("inductor", quantizer, gradients)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_turning_before_backward_is_never_a_wrong_gradient(quantizer: str) -> None:
    # Eager mode copies the widths. The compiler may see through the copy: then torch raises.
    model = quantize(Mlp(), 3, 3, quantizer=quantizer, skip=())
    dial, compiled = BitDial(model), torch.compile(model, backend="aot_eager")
    compiled(rows()).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss = compiled(rows()).square().sum()
    dial.set(16)
    try:
        loss.backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)  # noqa: PT017
        return
    for parameter, straight in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, straight)
