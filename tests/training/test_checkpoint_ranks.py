"""Under torch.distributed only rank 0 writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed

from bitdial.training.checkpoint import CheckpointManager, read_checkpoint


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    current = {"rank": 0}
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: current["rank"])
    return current


def test_other_ranks_write_nothing_and_read_everything(tmp_path: Path, rank: dict[str, int]) -> None:
    folder = tmp_path / "checkpoints"
    rank["rank"] = 1
    second = CheckpointManager(folder, keep_last_n=1, keep_best=0)
    assert not folder.exists()
    rank["rank"] = 0
    first = CheckpointManager(folder, keep_last_n=1, keep_best=0)
    for epoch in range(3):
        paths = []
        for number, manager in enumerate((first, second)):
            rank["rank"] = number
            paths.append(manager.save_checkpoint(epoch, {"w": torch.ones(1)}, {}, 0.5))
        assert len(list(folder.glob("*.pt"))) == 1
        assert paths[1] == folder
        assert read_checkpoint(paths[1]).path == paths[0]
    (folder / ".checkpoint-000009-epoch0001.pt.tmp").write_bytes(b"rank 0 is writing this")
    second.save_checkpoint(3, {"w": torch.ones(1)}, {}, 0.5)
    assert (folder / ".checkpoint-000009-epoch0001.pt.tmp").exists()
    assert second.load_latest().state["epoch"] == 2
    assert second.latest == first.latest
