"""A full disk, a read-only folder, and the order in which things reach the disk."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bitdial.errors import BitdialError
from bitdial.training.checkpoint import CheckpointManager
from bitdial.training.checkpoint.sealing import verify
from bitdial.training.checkpoint.writing import temporary_path
from tests.disks import mounted


def state(size: int, value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"w": torch.full((size,), value), "b": torch.ones(3)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Four megabytes of disk; skipped where the system does not let us mount one."""
    with mounted(tmp_path / "disk", "4m") as folder:
        yield folder


@pytest.mark.parametrize("background", [False, True])
def test_no_space_left_on_the_device(small_disk: Path, background: bool) -> None:
    manager = CheckpointManager(small_disk, background=background)
    for epoch in range(3):
        manager.save_checkpoint(epoch, state(200_000), {}, 1.0)  # 800 KB each
    manager.wait()
    before = contents(small_disk)
    with pytest.raises(BitdialError) as caught, manager:
        manager.save_checkpoint(3, state(600_000), {}, 1.0)
    message = str(caught.value)
    assert "No space left on device" in message
    assert "MB free" in message
    assert "3 earlier checkpoints" in message
    assert "\n" not in message
    assert contents(small_disk) == before
    manager = CheckpointManager(small_disk, background=background)  # and once there is room, it goes on
    manager.save_checkpoint(4, state(100), {}, 1.0)
    manager.close()
    assert CheckpointManager(small_disk).load_latest().state["epoch"] == 4


@pytest.fixture
def file_size_limit() -> Iterator[Any]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, ignored)


def test_stopped_after_any_number_of_bytes(tmp_path: Path, file_size_limit: Any) -> None:
    """Wherever the writing stops (in the tensors, in the directory, in the seal), nothing has changed."""
    manager = CheckpointManager(tmp_path)
    size = manager.save_checkpoint(0, state(5_000), {}, 1.0).stat().st_size
    before = contents(tmp_path)
    for limit in [0, 1, 100, 5_000, size // 2, *range(size - 500, size, 23), size - 1]:
        file_size_limit(limit)
        try:
            with pytest.raises(BitdialError, match=r"could not save checkpoint .*File too large"):
                manager.save_checkpoint(1, state(5_000), {}, 1.0)
        finally:
            file_size_limit(resource.RLIM_INFINITY)
        assert contents(tmp_path) == before
    manager.save_checkpoint(1, state(5_000), {}, 1.0)
    assert len(manager.checkpoints) == 2


def test_the_tracking_file_cannot_be_written(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1, keep_best=0)
    manager.save_checkpoint(0, state(3), {}, 1.0)
    before = contents(tmp_path)
    obstacle = temporary_path(manager.tracking_path)
    obstacle.mkdir()
    with pytest.raises(BitdialError, match="could not save checkpoint"):
        manager.save_checkpoint(1, state(3), {}, 1.0)
    obstacle.rmdir()
    assert contents(tmp_path) == before  # nothing was removed on the strength of a record that is not there
    manager.save_checkpoint(2, state(3), {}, 1.0)
    assert [path.name for path in tmp_path.glob("*.pt")] == ["checkpoint-000002-epoch0002.pt"]


def test_the_tracking_file_cannot_be_replaced(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1, keep_best=0)
    manager.save_checkpoint(0, state(3), {}, 1.0)
    manager.tracking_path.unlink()
    manager.tracking_path.mkdir()
    with pytest.raises(BitdialError, match="could not save checkpoint"):
        manager.save_checkpoint(1, state(3), {}, 1.0)
    manager.tracking_path.rmdir()
    manager = CheckpointManager(tmp_path, keep_last_n=1, keep_best=0)
    assert len(manager.checkpoints) == 2  # the new one is whole, and the old one is not removed
    assert manager.load_latest().state["epoch"] == 1
    assert not list(tmp_path.glob(".*"))


def test_the_order_of_writing_is_crash_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both flushed, the checkpoint named before the record that names it, folder flushed, then the old one removed."""
    manager = CheckpointManager(tmp_path, keep_last_n=1, keep_best=0)
    manager.save_checkpoint(0, state(3), {}, 1.0)
    events: list[str] = []

    def name_of(descriptor: int) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        return "folder" if path == tmp_path else path.name

    def noted(word: str, function: Any, name: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            events.append(f"{word} {name(*arguments)}")
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(os, "fsync", noted("flush", os.fsync, name_of))
    monkeypatch.setattr(os, "replace", noted("name", os.replace, lambda old, new: Path(new).name))
    monkeypatch.setattr(os, "unlink", noted("remove", os.unlink, lambda path: Path(path).name))
    manager.save_checkpoint(1, state(3), {}, 1.0)
    events[:2] = sorted(events[:2])  # these two are flushed at the same time
    assert events == [
        "flush .checkpoint-000002-epoch0001.pt.tmp",
        "flush .checkpoint_tracking.json.tmp",
        "name checkpoint-000002-epoch0001.pt",
        "name checkpoint_tracking.json",
        "flush folder",
        "remove checkpoint-000001-epoch0000.pt",
    ]


def test_an_interrupt_in_the_middle_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(0, state(3), {}, 1.0)
    before = contents(tmp_path)
    write, calls = os.write, 0

    def interrupted(descriptor: int, data: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manager.save_checkpoint(1, state(200_000), {}, 1.0)
    assert contents(tmp_path) == before


def test_a_file_that_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    """An evaluation that opens the folder, or a second process by mistake, does not pull a save from under a run."""
    fcntl = pytest.importorskip("fcntl")
    writing = temporary_path(tmp_path / "checkpoint-000005-epoch0001.pt")
    left = temporary_path(tmp_path / "checkpoint-000004-epoch0001.pt")
    left.write_bytes(b"half")
    with writing.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        manager = CheckpointManager(tmp_path)
        path = manager.save_checkpoint(1, state(3), {}, 1.0)
        assert writing.exists()
        assert not left.exists()
        assert path.name.startswith("checkpoint-000006")
    manager.save_checkpoint(2, state(3), {}, 1.0)
    assert not writing.exists()


def test_a_worker_forked_in_the_middle_does_not_hold_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = CheckpointManager(tmp_path)
    held: list[str] = []
    fsync = os.fsync

    def fork_then_flush(descriptor: int) -> None:
        process = os.fork()
        if process == 0:
            names = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
            os._exit(1 if any(name.endswith(".pt.tmp") for name in names) else 0)
        held.append(str(os.waitpid(process, 0)[1]))
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc here")
    monkeypatch.setattr(os, "fsync", fork_then_flush)
    manager.save_checkpoint(0, state(3), {}, 1.0)
    assert held
    assert set(held) == {"0"}


def test_a_name_that_is_not_ascii_and_a_deep_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "épreuve 1" / "чек" / "checkpoints"
    path = CheckpointManager(folder, prefix="best").save_checkpoint(0, state(3), {}, 1.0)
    assert verify(path) is not None
    assert path.parent == folder
