"""Resuming from whatever the user has: a run folder, a file, an older checkpoint, a bare state dict."""

from __future__ import annotations

import argparse
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bitdial.errors import BitdialError
from bitdial.training.checkpoint import CheckpointManager, read_checkpoint, resolved

MODEL = torch.nn.Linear(2, 2)


def text(notes: list[str]) -> str:
    return " | ".join(notes)


def test_a_run_folder_its_checkpoints_and_a_file(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "checkpoints")
    for epoch in range(3):
        path = manager.save_checkpoint(
            epoch, MODEL.state_dict(), {"x": 1}, 0.5, scheduler_state_dict={"last_epoch": 3}, rng_state=torch.ones(2)
        )
    for given in (tmp_path, str(tmp_path), tmp_path / "checkpoints", path):
        loaded = read_checkpoint(given)
        assert (loaded.path, loaded.state["epoch"], loaded.notes) == (path, 2, [])
        assert torch.equal(loaded.state["model_state_dict"]["weight"], MODEL.weight)


def test_each_missing_part_is_noted(tmp_path: Path) -> None:
    CheckpointManager(tmp_path).save_checkpoint(4, MODEL.state_dict(), None, 0.5)
    notes = read_checkpoint(tmp_path, expected=("optimizer_state_dict", "epoch", "ema_state_dict")).notes
    assert len(notes) == 2
    assert "no optimizer_state_dict: the optimizer starts afresh" in notes[0]
    assert "no ema_state_dict: it is not restored" in notes[1]


def test_a_plain_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for state in (MODEL.state_dict(), dict(MODEL.named_parameters())):
        torch.save(state, path)
        loaded = read_checkpoint(path)
        MODEL.load_state_dict(loaded.state["model_state_dict"])
        for words in ("no checksum", "plain state dict", "no optimizer_state_dict", "no scheduler_state_dict"):
            assert words in text(loaded.notes)
    torch.save(MODEL.state_dict(), path, _use_new_zipfile_serialization=False)  # as torch wrote before 1.6
    assert torch.equal(read_checkpoint(path).state["model_state_dict"]["weight"], MODEL.weight)


@pytest.mark.parametrize(
    ("model_key", "optimizer_key"),
    [("model_state_dict", "optimizer_state_dict"), ("model", "optimizer"), ("state_dict", "optimizer"), ("net", "opt")],
)
def test_an_older_checkpoint_with_only_model_and_optimizer(tmp_path: Path, model_key: str, optimizer_key: str) -> None:
    path = tmp_path / "old.pt"
    optimizer = torch.optim.Adam(MODEL.parameters())
    torch.save({model_key: MODEL.state_dict(), optimizer_key: optimizer.state_dict(), "epoch": 9}, path)
    loaded = read_checkpoint(path)
    MODEL.load_state_dict(loaded.state["model_state_dict"])
    assert loaded.state["epoch"] == 9
    assert "no scheduler_state_dict" in text(loaded.notes)
    if optimizer_key == "opt":
        assert "no optimizer_state_dict" in text(loaded.notes)
    else:
        optimizer.load_state_dict(loaded.state["optimizer_state_dict"])
        assert "optimizer" not in text(loaded.notes)


@pytest.mark.parametrize(
    "wrapper",
    [
        "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_orig_mod._orig_mod.", "module.module.",
        "_orig_mod.module._orig_mod.",
    ],
)  # fmt: skip
def test_names_left_by_a_wrapper(tmp_path: Path, wrapper: str) -> None:
    path = tmp_path / "wrapped.pt"
    torch.save({wrapper + key: value for key, value in MODEL.state_dict().items()}, path)
    loaded = read_checkpoint(path)
    MODEL.load_state_dict(loaded.state["model_state_dict"])
    assert f"took '{wrapper}' off" in text(loaded.notes)


def test_several_series_in_a_folder(tmp_path: Path) -> None:
    for epoch, prefix in enumerate(("first", "second")):
        CheckpointManager(tmp_path, prefix=prefix).save_checkpoint(epoch, MODEL.state_dict(), {}, 0.5)
    with pytest.raises(BitdialError, match=r"several series of checkpoints \('first', 'second'\)"):
        read_checkpoint(tmp_path)
    assert read_checkpoint(tmp_path, prefix="second").state["epoch"] == 1
    with pytest.raises(BitdialError, match="no checkpoint of the series 'third'"):
        read_checkpoint(tmp_path, prefix="third")


def write(path: Path, content: Any) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is damaged: it is empty"),
        (b"hello", r"is not a checkpoint that torch.load can read \((?!Weights only)"),
        (b"PK\x03\x04 cut", "is damaged"),
        (pickle.dumps({"a": 1}), "is not a checkpoint|has no model"),
        ([1, 2], "holds a list, expected a dict"),
        ({}, "has no model: .* got the keys none"),
        ({"epoch": 3, "lr": 0.1}, "has no model: .* got the keys epoch, lr"),
        (torch.ones(2), "holds a Tensor, expected a dict"),
        ({"args": argparse.Namespace(a=1), "model": {}}, r"unsafe loading would give \(argparse\.Namespace\)"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "odd.pt"
    write(path, content)
    for read in (read_checkpoint, CheckpointManager(tmp_path).load):
        if read is not read_checkpoint and "has no model" in words:
            continue  # `load` gives back what is in the file
        with pytest.raises(BitdialError, match=words) as caught:
            read(path)
        assert "odd.pt" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BitdialError, match=r"no checkpoint in .*; give a run folder or a file"):
        read_checkpoint(tmp_path)
    torch.save(MODEL.state_dict(), tmp_path / "model_best.pt")
    with pytest.raises(BitdialError, match=r"name one of its files: model_best\.pt"):
        read_checkpoint(tmp_path)
    with pytest.raises(BitdialError, match=r"no checkpoint at .*; did you mean 'model_best\.pt'\?"):
        read_checkpoint(tmp_path / "model_bset.pt")
    with pytest.raises(BitdialError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "a" / "b")


def test_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()

    def start() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        model = torch.nn.Linear(3, 3)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    model, optimizer = start()
    steps(model, optimizer, 5)
    with CheckpointManager(tmp_path, background=True) as manager:
        rng = torch.get_rng_state()
        manager.save_checkpoint(0, model.state_dict(), optimizer.state_dict(), 0.5, step=5, rng_state=rng)
        steps(model, optimizer, 5)
    resumed, its_optimizer = start()
    state = CheckpointManager(tmp_path).load_latest().state
    resumed.load_state_dict(state["model_state_dict"])
    its_optimizer.load_state_dict(state["optimizer_state_dict"])
    torch.set_rng_state(state["rng_state"])
    steps(resumed, its_optimizer, 5)
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class TestNames:
    def test_best_and_last_stand_for_files(self, tmp_path: Path) -> None:
        with CheckpointManager(tmp_path, keep_last_n=2, keep_best=1) as manager:
            saved = [
                manager.save_checkpoint(epoch, {"w": torch.tensor(epoch)}, None, loss)
                for epoch, loss in enumerate([0.5, 0.1, 0.9, math.nan])
            ]
        assert read_checkpoint(tmp_path / "last.pt").path == saved[3]
        assert read_checkpoint(tmp_path / "best.pt").path == saved[1]
        assert manager.load("checkpoint-best.pt").path == saved[1]
        saved[3].write_bytes(saved[3].read_bytes()[:-1] + b"x")  # damaged: passed over
        assert resolved(tmp_path / "last.pt") == saved[2]
        (tmp_path / "best.pt").write_bytes(saved[2].read_bytes())  # a file of that name is itself
        assert resolved(tmp_path / "best.pt") == tmp_path / "best.pt"

    def test_links_follow_every_save_and_name_what_is_there(self, tmp_path: Path) -> None:
        def named() -> dict[str, int]:
            links = [path for path in tmp_path.iterdir() if path.is_symlink()]
            return {link.name: torch.load(link, weights_only=True)["epoch"] for link in links}

        mine = tmp_path / "checkpoint-last.pt"
        mine.write_text("mine")
        with CheckpointManager(tmp_path, keep_last_n=1, keep_best=1, links=True) as manager:
            for epoch, loss in enumerate([0.5, 0.1, 0.9, 0.05]):
                manager.save_checkpoint(epoch, {"w": torch.tensor(epoch)}, None, loss)
                best = {0: 0, 1: 1, 2: 1, 3: 3}[epoch]
                assert named() == {"last.pt": epoch, "best.pt": best, "checkpoint-best.pt": best}
            assert manager.checkpoints == [manager.latest]
        assert mine.read_text() == "mine"
        assert manager.latest is not None
        manager.latest.write_bytes(manager.latest.read_bytes()[:-1] + b"x")
        with pytest.raises(BitdialError, match="no sound checkpoint"):  # what a link names may be damaged
            resolved(tmp_path / "last.pt")
        (tmp_path / "last.pt").unlink()
        manager.latest.unlink()
        manager = CheckpointManager(tmp_path, links=True)
        assert named() == {}  # nothing dangles
        manager.save_checkpoint(7, {"w": torch.zeros(1)}, None, None)
        with CheckpointManager(tmp_path, prefix="other", links=True) as other:
            other.save_checkpoint(8, {"w": torch.zeros(1)}, None, None)
        assert named() == {"checkpoint-best.pt": 7, "other-best.pt": 8, "other-last.pt": 8}

    def test_a_copy_that_followed_the_links_gets_links_again(self, tmp_path: Path) -> None:
        with CheckpointManager(tmp_path / "run", links=True) as manager:
            manager.save_checkpoint(0, {"w": torch.zeros(1)}, None, 0.5)
        copy = Path(shutil.copytree(tmp_path / "run", tmp_path / "copy"))
        assert not (copy / "last.pt").is_symlink()
        with CheckpointManager(copy, links=True) as manager:
            saved = manager.save_checkpoint(1, {"w": torch.zeros(1)}, None, 0.9)
        assert (copy / "last.pt").resolve() == saved
        assert resolved(copy / "last.pt") == saved

    def test_a_disk_without_links_has_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "symlink_to", refuse)
        with CheckpointManager(tmp_path, links=True) as manager:
            file = manager.save_checkpoint(0, {"w": torch.zeros(1)}, None, 0.5)
        assert not any(path.is_symlink() for path in tmp_path.iterdir())
        assert resolved(tmp_path / "last.pt") == resolved(tmp_path / "best.pt") == file

    def test_of_several_series_each_has_its_own(self, tmp_path: Path) -> None:
        for prefix in ("a", "b"):
            with CheckpointManager(tmp_path, prefix=prefix, metric="accuracy", higher_is_better=True) as manager:
                files = [manager.save_checkpoint(0, {"w": torch.zeros(1)}, None, value) for value in (0.2, 0.9, 0.5)]
        with pytest.raises(BitdialError, match=r"expected one of a-best\.pt, b-best\.pt"):
            read_checkpoint(tmp_path / "best.pt")
        assert resolved(tmp_path / "b-best.pt") == files[1]
        assert resolved(tmp_path / "c-best.pt") == tmp_path / "c-best.pt"  # is not there, as its reader says

    def test_without_a_metric_the_best_is_the_newest(self, tmp_path: Path) -> None:
        with CheckpointManager(tmp_path) as manager:
            files = [manager.save_checkpoint(epoch, {"w": torch.zeros(1)}, None, None) for epoch in (0, 1)]
        assert resolved(tmp_path / "best.pt") == files[1]
