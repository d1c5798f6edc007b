"""Saving in the background: the state as it was at the call, in order, with failures that come to light."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bitdial.errors import BitdialError
from bitdial.training.checkpoint import CheckpointManager
from bitdial.training.checkpoint import series as series_module
from bitdial.training.checkpoint.contents import Snapshot
from bitdial.training.checkpoint.writing import save_sealed


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Background writes wait until this is set."""
    event = threading.Event()

    def slow(*arguments: Any) -> None:
        assert event.wait(20)
        save_sealed(*arguments)

    monkeypatch.setattr(series_module, "save_sealed", slow)
    return event


def test_what_is_saved_is_the_state_at_the_call(tmp_path: Path, gate: threading.Event) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    early_stopping = {"counter": 1}
    want = model.weight.detach().clone()
    momentum = optimizer.state_dict()["state"][0]["momentum_buffer"].clone()
    with CheckpointManager(tmp_path, background=True) as manager:
        started = time.perf_counter()
        path = manager.save_checkpoint(
            0, model.state_dict(), optimizer.state_dict(), 0.5, early_stopping=early_stopping
        )
        assert time.perf_counter() - started < 10
        assert not path.exists()
        assert manager.busy
        optimizer.step()
        early_stopping["counter"] = 2
        gate.set()
        loaded = manager.load_latest().state  # waits for the write
        assert not manager.busy
    assert torch.equal(loaded["model_state_dict"]["weight"], want)
    assert not torch.equal(model.weight, want)
    assert torch.equal(loaded["optimizer_state_dict"]["state"][0]["momentum_buffer"], momentum)
    assert loaded["early_stopping"] == {"counter": 1}


def test_saves_follow_each_other(tmp_path: Path) -> None:
    weight = torch.zeros(100_000)
    with CheckpointManager(tmp_path, keep_last_n=30, background=True) as manager:
        for epoch in range(20):
            weight.fill_(epoch)
            manager.save_checkpoint(epoch, {"w": weight}, {}, float(epoch))
    paths = CheckpointManager(tmp_path).checkpoints
    assert len(paths) == 20
    for epoch, path in enumerate(paths):
        state = torch.load(path, weights_only=True)
        assert state["epoch"] == epoch
        assert (state["model_state_dict"]["w"] == epoch).all()


def test_a_failure_comes_to_light_at_the_next_call_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = CheckpointManager(tmp_path, background=True)

    def broken(*arguments: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(series_module, "save_sealed", broken)
        manager.save_checkpoint(0, {"w": torch.ones(1)}, {}, 0.5)
        with pytest.raises(BitdialError, match="Input/output error"):
            manager.save_checkpoint(1, {"w": torch.ones(1)}, {}, 0.5)
        manager.save_checkpoint(2, {"w": torch.ones(1)}, {}, 0.5)
        with pytest.raises(BitdialError, match="Input/output error"):
            manager.close()
    assert not list(tmp_path.glob("*.pt"))


def test_leaving_the_with_block_reports_a_failure_but_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(series_module, "save_sealed", broken)
    with pytest.raises(BitdialError, match="Input/output"), CheckpointManager(tmp_path, background=True) as manager:
        manager.save_checkpoint(0, {"w": torch.ones(1)}, {}, 0.5)
    assert caplog.text == ""  # told once: by the error
    with pytest.raises(ZeroDivisionError), CheckpointManager(tmp_path, background=True) as manager:
        raise ZeroDivisionError(manager.save_checkpoint(0, {"w": torch.ones(1)}, {}, 0.5))
    assert caplog.text.count("Input/output error") == 1


def test_a_failure_that_nobody_asked_for_is_told_when_the_program_ends(tmp_path: Path) -> None:
    program = f"""
import torch
from bitdial.training.checkpoint import CheckpointManager, series
def broken(*_): raise OSError(5, "Input/output error")
series.save_sealed = broken
manager = CheckpointManager({str(tmp_path / "saves")!r}, background=True)
manager.save_checkpoint(0, {{"w": torch.ones(1)}}, None, 0.5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.count("Input/output error") == 1
    assert "Traceback" not in done.stderr


def test_after_close_nothing_is_saved(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.close()
    manager.close()
    with pytest.raises(BitdialError, match="is closed"):
        manager.save_checkpoint(0, {"w": torch.ones(1)}, {}, 0.5)


def test_a_snapshot_shares_memory_where_the_state_does_and_reuses_its_own(tmp_path: Path) -> None:
    base = torch.randn(1000)
    state: dict[str, Any] = {
        "tied": base,
        "again": base,
        "view": base[10:20],
        "matrix": torch.randn(4, 6).t(),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "half": torch.randn(5).to(torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "sparse": torch.eye(3).to_sparse(),
        "conjugate": torch.randn(2, dtype=torch.complex64).conj(),
        "nested": [{"x": (torch.ones(2), 1)}],
    }
    snapshot = Snapshot()
    first, unknown = snapshot.take(state)
    assert unknown == []
    addresses = first["tied"].untyped_storage().data_ptr()
    assert addresses != base.untyped_storage().data_ptr()
    assert first["again"].data_ptr() == addresses
    assert first["view"].data_ptr() == addresses + 40
    for key in ("tied", "view", "matrix", "empty", "scalar", "half", "parameter", "conjugate"):
        assert torch.equal(first[key], state[key]), key
        assert first[key].dtype == state[key].dtype, key
        assert first[key].stride() == state[key].stride(), key
    assert isinstance(first["parameter"], torch.nn.Parameter)
    assert torch.equal(first["sparse"].to_dense(), torch.eye(3))
    assert torch.equal(first["nested"][0]["x"][0], torch.ones(2))
    base.fill_(7)
    assert (first["tied"] != 7).any()
    second, _ = snapshot.take(state)
    assert second["tied"].untyped_storage().data_ptr() == addresses
    assert (second["tied"] == 7).all()


def test_the_file_of_a_background_save_is_that_of_a_plain_one(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    sizes = []
    for background in (False, True):
        with CheckpointManager(tmp_path / str(background), background=background) as manager:
            path = manager.save_checkpoint(0, model.state_dict(), None, 0.5)
        sizes.append(path.stat().st_size)
        loaded = torch.load(path, weights_only=True)["model_state_dict"]
        assert vars(loaded) == vars(model.state_dict())  # batch norm reads its version there
        model.load_state_dict(loaded)
    assert sizes[0] == sizes[1]
