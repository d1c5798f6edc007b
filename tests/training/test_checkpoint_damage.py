"""A damaged checkpoint is refused by name and the newest sound one taken instead."""

from __future__ import annotations

import logging
import os
import random
import zipfile
from pathlib import Path

import pytest
import torch

from bitdial.errors import BitdialError
from bitdial.training.checkpoint import CheckpointManager, DamagedCheckpoint, read_checkpoint
from bitdial.training.checkpoint.sealing import read_header, verify


def fill(folder: Path, count: int = 3) -> CheckpointManager:
    manager = CheckpointManager(folder)
    for epoch in range(count):
        state = {"w": torch.full((50,), float(epoch)), "b": torch.zeros(0)}
        manager.save_checkpoint(epoch, state, {"momentum": torch.randn(7)}, 1.0 - epoch / 10)
    return manager


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = fill(tmp_path, 1).checkpoints[0]
    sound = path.read_bytes()
    target = tmp_path / "flipped.pt"
    target.write_bytes(sound)
    generator = random.Random(0)
    unnoticed, named = [], 0
    with target.open("r+b", buffering=0) as stream:
        for position, byte in enumerate(sound):
            os.pwrite(stream.fileno(), bytes([byte ^ generator.randrange(1, 256)]), position)
            try:
                unnoticed.append((position, verify(target)))
            except DamagedCheckpoint as error:
                named += target.name in str(error)
            os.pwrite(stream.fileno(), bytes([byte]), position)
    assert unnoticed == []
    assert named == len(sound)
    assert verify(target) is not None


def test_every_length_cut_short_is_noticed(tmp_path: Path) -> None:
    path = fill(tmp_path, 1).checkpoints[0]
    sound = path.read_bytes()
    target = tmp_path / "short.pt"
    for length in [*range(0, 80), *range(80, len(sound), 37), *range(len(sound) - 400, len(sound))]:
        target.write_bytes(sound[:length])
        with pytest.raises(BitdialError):
            read_checkpoint(target)
    target.write_bytes(sound + b"\0")
    with pytest.raises(DamagedCheckpoint):
        read_checkpoint(target)
    target.write_bytes(b"\0" * len(sound))  # what a file system may leave after a power cut
    with pytest.raises(BitdialError):
        read_checkpoint(target)


@pytest.mark.parametrize("damage", ["cut", "flip data", "flip header", "empty", "zeros"])
def test_the_newest_sound_one_is_taken_and_said_so(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    newest = fill(tmp_path).checkpoints[-1]
    content = bytearray(newest.read_bytes())
    if damage.startswith("flip"):
        content[content.index(b"data.pkl") + 400 if damage == "flip data" else -30] ^= 4
    others = {"cut": content[: len(content) // 2], "empty": bytearray(), "zeros": bytearray(len(content))}
    changed = bytes(others.get(damage, content))
    newest.write_bytes(changed)

    for loaded in (CheckpointManager(tmp_path).load_latest(), read_checkpoint(tmp_path, expected=())):
        assert loaded.state["epoch"] == 1
        assert len(loaded.notes) == 1
        assert newest.name in loaded.notes[0]
        assert loaded.path.name in loaded.notes[0]
    with caplog.at_level(logging.WARNING):
        manager = CheckpointManager(tmp_path)
        assert manager.load_best().state["epoch"] == 1
    assert newest.name in caplog.text
    with pytest.raises(BitdialError, match=newest.name):
        manager.load(newest)

    # It no longer takes the place of a sound one, it is left for the user to look at, and its name is not used again.
    manager = CheckpointManager(tmp_path, keep_last_n=1, keep_best=1)
    manager.load_latest()
    path = manager.save_checkpoint(2, {"w": torch.ones(1)}, {}, 0.95)
    assert path != newest
    assert newest.read_bytes() == changed
    assert [item.name for item in manager.checkpoints] == sorted(
        item.name for item in tmp_path.glob("*.pt") if item != newest and "epoch0000" not in item.name
    )
    assert newest.name not in manager.tracking_path.read_text()


def test_with_none_sound_left_each_is_named(tmp_path: Path) -> None:
    manager = fill(tmp_path)
    for path in manager.checkpoints:
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BitdialError) as caught:
        CheckpointManager(tmp_path).load_latest()
    assert all(path.name in str(caught.value) for path in tmp_path.glob("*.pt"))


def test_the_header_is_read_without_the_tensors(tmp_path: Path) -> None:
    path = fill(tmp_path, 1).checkpoints[0]
    header = read_header(path)
    assert header is not None
    assert (header["epoch"], header["metric"], header["metric_name"], header["number"]) == (0, 1.0, "loss", 1)


def test_the_file_stays_a_plain_torch_file(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    weight = torch.randn(20_000)
    path = manager.save_checkpoint(4, {"w": weight}, {"m": [weight * 2]}, 0.5, step=3, accuracy=0.8, early_stopping={})
    for mmap in (False, True):
        state = torch.load(path, weights_only=True, mmap=mmap)
        assert torch.equal(state["model_state_dict"]["w"], weight)
        assert {"epoch": 4, "loss": 0.5, "metric": 0.5, "step": 3, "accuracy": 0.8}.items() <= state.items()
    with zipfile.ZipFile(path) as archive:  # any zip program can check the tensors
        assert archive.testzip() is None
        assert b'"epoch":4' in archive.comment


def test_many_and_large_records(tmp_path: Path) -> None:
    """More records than one read of the directory's usual size, names of all lengths, records beyond the read block."""
    state = {f"layer{'x' * (i % 90)}.{i}": torch.full((i % 5,), float(i)) for i in range(700)}
    state["large"] = torch.arange(700_000)
    path = CheckpointManager(tmp_path).save_checkpoint(0, state, None, 0.1)
    assert verify(path) is not None
    loaded = CheckpointManager(tmp_path).load_latest().state["model_state_dict"]
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(600_000, 600_010).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match="do not match their checksum"):
        verify(path)


def test_checksums_are_there_even_where_the_user_switched_torchs_off(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = fill(tmp_path, 1).checkpoints[0]
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert verify(path) is not None
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
