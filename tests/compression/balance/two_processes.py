"""What each of two processes does, for the test of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bitdial.compression import BalancedOptimizer, QuadraticBalance

WORLD = 2


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3).double()


def batches(step: int) -> Tensor:
    """A batch of each process."""
    draw = torch.Generator().manual_seed(step)
    return torch.randn(WORLD, 5, 4, generator=draw, dtype=torch.float64) * torch.tensor([[[1.0]], [[3.0]]])


def losses_of(model: nn.Module, x: Tensor) -> Tensor:
    y = model(x)
    return torch.stack([(y - x[:, :3]).square().mean(), y.abs().mean()])


def train(model: nn.Module, plain: nn.Module, rank: int | None, bad_step: int | None = None) -> dict[str, Any]:
    """Five steps on one share of each batch (None: all of it); the second process has a NaN in one of them."""
    optimizer = BalancedOptimizer(torch.optim.Adam(plain.parameters(), lr=0.05), w_lr=0.1, warmup_steps=1)
    seen: list[Tensor] = []
    for step in range(5):
        x = batches(step).flatten(0, 1) if rank is None else batches(step)[rank]
        factor = float("nan") if step == bad_step and rank == 1 else 1.0
        optimizer.step(lambda x=x, factor=factor: losses_of(model, x) * factor)
        seen.append(optimizer.w.clone())
    return {"w": seen, "weight": plain.weight.detach(), "skipped": optimizer.skipped_steps, "p": optimizer.p}


def quadratic(model: nn.Module, plain: nn.Module, rank: int | None) -> Tensor:
    optimizer = QuadraticBalance(torch.optim.SGD(plain.parameters(), lr=0.05))
    for step in range(3):
        x = batches(step).flatten(0, 1) if rank is None else batches(step)[rank]
        optimizer.step(lambda x=x: losses_of(model, x))
    return plain.weight.detach()


def bad_gradient(plain: nn.Module, rank: int) -> int:
    """The gradient of one process alone is not finite, and no wrapper averages it: both must skip."""
    optimizer = BalancedOptimizer(torch.optim.SGD(plain.parameters(), lr=0.05))
    zero = 0.0 if rank == 1 else 1.0
    optimizer.step(lambda: losses_of(plain, batches(0)[rank]) + (zero * plain.weight).square().sum().sqrt())
    optimizer.step(lambda: losses_of(plain, batches(0)[rank]))
    return optimizer.skipped_steps


def taken_up(rank: int) -> list[float]:
    """Both take up the state that the first process saved: their noise must not become the same."""
    plain = network()
    optimizer = BalancedOptimizer(torch.optim.SGD(plain.parameters(), lr=0.05))
    torch.manual_seed(rank)
    state = [optimizer.state_dict()]
    coming = float(torch.rand(()))
    torch.distributed.broadcast_object_list(state)
    optimizer.load_state_dict(state[0])
    return [coming, float(torch.rand(()))]


def in_each(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    together = f"file://{folder}/together"
    torch.distributed.init_process_group("gloo", init_method=together, rank=rank, world_size=WORLD)
    try:
        found: dict[str, Any] = {}
        for name, bad_step in (("whole", None), ("with_nan", 2)):
            plain = network()
            found[name] = train(DistributedDataParallel(plain), plain, rank, bad_step)
        plain = network()
        found["quadratic"] = quadratic(DistributedDataParallel(plain), plain, rank)
        plain = network()
        found["quadratic_bare"] = quadratic(plain, plain, rank)
        found["bad_gradient"] = bad_gradient(network(), rank)
        found["noise"] = taken_up(rank)
        torch.save(found, Path(folder) / f"rank{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
