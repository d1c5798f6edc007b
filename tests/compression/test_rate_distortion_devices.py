"""Balanced training of a codec in two processes: one balance, one network, though each sees other pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bitdial.compression import FactorizedPrior, TaskWeights
from bitdial.compression.rate_distortion import Balance, RateDistortion
from bitdial.training import LoopConfig, fit, make_fabric, seed_everything


def in_each_process(fabric: Any, root: str) -> None:
    torch.set_num_threads(1)
    rank = fabric.global_rank
    seed_everything(0)
    model, task, weights = FactorizedPrior(4, 4), RateDistortion(0.01), TaskWeights(lr=0.05)
    seed_everything(0, rank=rank)
    draw = torch.Generator().manual_seed(rank)
    pictures = [torch.rand(2, 3, 32, 32, generator=draw) * (0.4 + 0.6 * rank) for _ in range(3)]
    balance = Balance(task, weights, warmup_steps=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    own = float(task.losses(model(pictures[0]), pictures[0])[0])
    state = fit(fabric, model, optimizer, task, pictures, LoopConfig(steps=6), hooks=[balance])
    found = {
        "own": own,
        "w": weights.w,
        "history": {name: state.history[name] for name in ("p_rate", "distortion", "bpp")},
        "parameters": {name: p.detach() for name, p in model.named_parameters()},
    }
    torch.save(found, Path(root) / f"rank{rank}.pt")


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    make_fabric(devices=2, strategy="ddp_spawn", accelerator="cpu").launch(in_each_process, str(tmp_path))
    one, other = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one["own"] != other["own"]
    assert torch.equal(one["w"], other["w"])
    assert one["w"][0] != 0
    assert one["history"] == other["history"]
    assert all(torch.equal(value, other["parameters"][name]) for name, value in one["parameters"].items())
