"""A batch that does not fit into a GPU's memory is done again in parts, with the gradient that it would have had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from bitdial.training.mixed_precision import MixedPrecisionConfig, MixedPrecisionTrainer
from tests.gpu.conftest import Device
from tests.training.mixed_precision.faults import Fault, FaultyForward

WIDTH, ROWS, ROOM = 64, 256, 100 * 2**20


@contextmanager
def little_memory(device: Device) -> Iterator[Fault]:
    """On a GPU leave room for less than the batch takes; on the CPU the fault that is given says that there is none."""
    if device == "cpu":
        yield Fault({1})
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + ROOM) / total)
    try:
        yield Fault(())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


class Wide(nn.Module):
    """Makes two tensors of half a megabyte (in float32) for each row of a batch, on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, 2048 if x.is_cuda else 16).view(len(x), -1, WIDTH).sin().mean(1)


def step(device: Device, dtype: str, fault: Fault | None = None) -> tuple[list[Tensor], int, int]:
    """Take one step; return its gradients, the parts it took, and how often it was begun again."""
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH), Wide(), FaultyForward(fault or Fault(())), nn.Linear(WIDTH, 4)]
    model = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    kept: list[Tensor] = []
    optimizer.register_step_pre_hook(lambda *_: kept.extend(p.grad.clone() for p in model.parameters()))
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype=dtype, init_scale=8.0))
    x, y = torch.randn(ROWS, WIDTH, device=device), torch.randint(4, (ROWS,), device=device)
    outcome = trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y)
    assert not outcome.skipped
    return kept, trainer.control.parts, trainer.get_performance_summary()["memory_retries"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_done_again_in_parts(dtype: str, device: Device) -> None:
    expected, parts, retries = step(device, dtype)
    assert (parts, retries) == (1, 0)
    with little_memory(device) as fault:
        got, parts, retries = step(device, dtype, fault)
    assert parts >= 2
    assert retries >= 1
    tolerance = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}[dtype]
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine - theirs).norm() <= tolerance * theirs.norm()
