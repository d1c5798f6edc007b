"""One compiled graph for training and one for evaluation, whatever the widths; on a GPU by Inductor's own kernels."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from bitdial.layers import BitDial, quantize
from bitdial.numerics.quantizers import QUANTIZERS
from tests.gpu.conftest import Device
from tests.layers.nets import ResidualNet, images

WIDTHS = [float(bits) for bits in (*range(1, 17), 32)]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def steps(model: nn.Module, call: nn.Module, device: str, *, train: bool) -> list[Tensor]:
    """Outputs, and gradients while training, at each width: every layer at another one."""
    dial, seen = BitDial(model), []
    model.train(train)
    for step in range(len(WIDTHS)):
        turned = [WIDTHS[(step + layer) % len(WIDTHS)] for layer in range(len(dial))]
        dial.set(weights=turned, activations=turned[::-1])
        model.zero_grad()
        with torch.set_grad_enabled(train):
            y = call(images(4, seed=step).to(device))
        seen.append(y.detach())
        if train:
            y.square().sum().backward()
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
            seen.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return seen


@pytest.mark.parametrize(
    "quantizer",
    [
        pytest.param(each, marks=() if torch.cuda.is_available() or each == "uniform" else pytest.mark.slow)
        for each in QUANTIZERS
    ],
)
def test_two_graphs_for_seventeen_widths(quantizer: str, device: Device) -> None:
    torch.manual_seed(0)
    model = quantize(ResidualNet(), 8, 8, quantizer=quantizer, skip=()).to(device)
    eager = copy.deepcopy(model)
    counter = CompileCounterWithBackend("inductor" if device == "cuda" else "aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for train, graphs in ((True, 1), (False, 2)):
        got, expected = steps(model, compiled, device, train=train), steps(eager, eager, device, train=train)
        assert counter.frame_count == graphs
        gaps = [float((a - b).norm() / (b.norm() + 1e-3)) for a, b in zip(got, expected, strict=True)]
        # A value at a tie may fall to either side, and at one bit one value matters.
        assert sorted(gaps)[len(gaps) // 2] <= 1e-3
        assert sum(gap > 0.05 for gap in gaps) <= len(gaps) // 5
