"""The largest batch that fits: found on made-up and on measured memory, without trying what would not fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitdial import machine
from bitdial.errors import BitdialError
from bitdial.training import find_batch_size, peak_memory
from bitdial.training.batch_size import GIB, MARGIN, free_for_tensors

LIMIT = 10_000


def made_of(*moments: tuple[float, float]) -> Callable[[int], float]:
    """What a step holds at most, of the ``(fixed, slope)`` of its moments."""
    return lambda size: max(fixed + slope * size for fixed, slope in moments)


@pytest.mark.parametrize(
    "moments",
    [
        [(100, 7)],
        [(100, 0.5)],
        [(9_990, 1)],
        [(0, 3_000)],
        [(4_000, 0), (100, 7), (0, 8)],  # the optimizer's update decides while batches are small
        [(9_000, 0), (100, 200)],
        [(5_000, 0.01), (10, 1), (0, 1.3)],
    ],
)
@pytest.mark.parametrize("multiple", [1, 3])
def test_largest(moments: list[tuple[float, float]], multiple: int) -> None:
    peak = made_of(*moments)
    if peak(multiple) > LIMIT:
        with pytest.raises(BitdialError, match="not even a batch of 3 fits"):
            find_batch_size(peak, LIMIT, multiple=multiple)
        return
    fit = find_batch_size(peak, LIMIT, multiple=multiple)
    assert fit.size % multiple == 0
    assert peak(fit.size) <= LIMIT < peak(fit.size + max(multiple, fit.size // 16))
    assert len(fit.tried) <= 16
    assert fit.fixed + fit.per_example * fit.size == pytest.approx(peak(fit.size), rel=0.1)


def test_never_more_than_there_is_and_what_is_proven_to_fit_is_tried_at_once() -> None:
    fit = find_batch_size(made_of((10, 1)), LIMIT, most=500)
    assert (fit.size, sorted(fit.tried)) == (500, [2, 500])
    assert find_batch_size(made_of((10, 1)), LIMIT, most=1).size == 1
    assert find_batch_size(made_of((10, 1)), LIMIT, most=11, multiple=4).size == 8


def test_one_example_is_tried_where_two_do_not_fit() -> None:
    assert find_batch_size(made_of((0, 9_000)), LIMIT).size == 1

    def norms(size: int) -> float:
        if size == 1:
            raise ValueError("Expected more than 1 value per channel when training")
        return 2.0 * LIMIT

    with pytest.raises(BitdialError, match=r"not even a batch of 1 fits: expected at most 9\.8 KiB for it, got"):
        find_batch_size(norms, LIMIT)


@pytest.mark.parametrize(("most", "multiple"), [(0, 1), (3, 4)])
def test_too_few_examples(most: int, multiple: int) -> None:
    with pytest.raises(BitdialError, match=f"expected at least {multiple} examples, one for each device, got {most}"):
        find_batch_size(made_of((10, 1)), LIMIT, most=most, multiple=multiple)


def test_other_errors_are_not_taken_for_memory() -> None:
    def broken(size: int) -> float:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        find_batch_size(broken, LIMIT)


class Device:
    """A GPU of 1,000 bytes, with the statistics that torch keeps; a batch takes 100 + 7 a piece for a moment."""

    def __init__(self) -> None:
        self.reserved = self.most = 50  # what lies there already

    def step(self, size: int) -> None:
        taken = 50 + 100 + 7 * size
        if taken > 1_000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.most = max(self.most, taken)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        def reset(device: Any = None) -> None:
            self.most = self.reserved

        for name, value in {
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": reset,
            "max_memory_reserved": lambda device=None: self.most,
            "memory_reserved": lambda device=None: self.reserved,
            "mem_get_info": lambda device=None: (1_000 - self.reserved, 1_000),
        }.items():
            patch.setattr(torch.cuda, name, value)


def test_a_gpu_is_asked_and_may_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    device, cuda = Device(), torch.device("cuda", 0)
    device.install(monkeypatch)
    budget, limit, own = free_for_tensors(cuda, None)
    assert (budget, limit, own) == (900, 1_000, 0)
    fit = find_batch_size(lambda size: peak_memory(lambda: device.step(size), cuda), budget)
    assert fit.size == 107  # 150 + 7 * 107 = 899
    tight = find_batch_size(lambda size: peak_memory(lambda: device.step(size), cuda), 2_000)  # more than there is
    assert 113 <= tight.size <= 121
    assert math.inf in tight.tried.values()
    assert free_for_tensors(cuda, 500 / GIB)[1] == 500


def test_peak_memory_counts_what_lives_at_once() -> None:
    def work() -> None:
        first = torch.empty(1_000_000, dtype=torch.uint8)
        second = torch.empty(500_000, dtype=torch.uint8)
        del first
        third = torch.empty(700_000, dtype=torch.uint8)
        del second, third

    before = torch.empty(2_000_000, dtype=torch.uint8)
    assert peak_memory(work) == 1_500_000

    def frees() -> None:
        nonlocal before
        del before
        torch.empty(600_000, dtype=torch.uint8)

    assert peak_memory(frees) == 600_000  # what was there before counts neither way


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.Flatten(), nn.LazyLinear(10)
    )


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.LazyLinear(10))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        pytest.param(conv, (3, 16, 16), id="conv"),
        pytest.param(
            lambda: nn.Sequential(nn.Linear(100, 400), nn.ReLU(), nn.Linear(400, 10)),
            (100,),
            id="mlp",
            marks=pytest.mark.slow,
        ),
        pytest.param(transformer, (24, 32), id="transformer", marks=pytest.mark.slow),
    ],
)
def test_largest_of_real_steps(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    def step(size: int) -> None:
        model = build()
        x, y = torch.randn(size, *shape), torch.zeros(size, dtype=torch.int64)
        model(x[:2])
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    def peak(size: int) -> int:
        return peak_memory(lambda: step(size))

    limit = 12 * 2**20
    fit = find_batch_size(peak, limit)
    assert 16 < fit.size < 5_000
    assert peak(fit.size) <= limit < peak(fit.size + max(1, fit.size // 16))
    assert max(fit.tried) <= 1.1 * fit.size


def test_free_memory_of_a_cpu() -> None:
    budget, limit, own = free_for_tensors(torch.device("cpu"), 64)
    assert limit == 64 * GIB
    assert budget == int(limit * (1 - MARGIN)) - own
    assert free_for_tensors(torch.device("cpu"), 64, processes=2)[1] == 32 * GIB
    budget, limit, own = free_for_tensors(torch.device("cpu"), None)
    assert own < limit <= own + machine.total_memory()
    with pytest.raises(BitdialError, match="on a CPU or a CUDA GPU, got mps; give a number"):
        free_for_tensors(torch.device("mps"), None)


def test_limits_of_control_groups_are_found(tmp_path: Path) -> None:
    root, groups = tmp_path / "cgroup", tmp_path / "self"
    inner = root / "service" / "run"
    inner.mkdir(parents=True)
    for folder, limit, used, cache in ((inner, "max", 10, 0), (inner.parent, "5000", 3000, 700)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\nactive_file 100\n")
    groups.write_text("0::/service/run\n")
    assert machine._left_in_groups(root, groups) == [5000 - 3000 + 800]
    old = root / "memory" / "job"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("900\n")
    (old / "memory.usage_in_bytes").write_text("300\n")
    (old / "memory.stat").write_text("total_inactive_file 50\ntotal_active_file 50\n")
    groups.write_text("4:memory:/job\n1:cpu:/\n")
    assert machine._left_in_groups(root, groups) == [700]
    assert machine._left_in_groups(root, tmp_path / "nothing") == []
