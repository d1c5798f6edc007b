"""What a user can get wrong: one sentence each, with what was got and what to do; nothing changes on disk."""

from __future__ import annotations

import argparse
import collections
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitdial.errors import BitdialError
from bitdial.training.checkpoint import CheckpointManager

WEIGHTS = {"w": torch.ones(2)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep_last_n": 0}, "keep_last_n must be a whole number of at least 1, got 0"),
        ({"keep_last_n": 2.5}, "keep_last_n .* got 2.5"),
        ({"keep_last_n": True}, "keep_last_n .* got True"),
        ({"keep_best": -1}, "keep_best must be a whole number of at least 0, got -1"),
        ({"metric": ""}, "metric must be the name"),
        ({"metric": "epoch"}, "metric must be the name .* got 'epoch'"),
        ({"metric": None}, "metric must be the name .* got None"),
        ({"prefix": "../up"}, r"prefix must begin .* got '\.\./up'"),
        ({"prefix": ""}, "prefix must begin"),
        ({"prefix": ".hidden"}, "prefix must begin"),
    ],
)
def test_settings(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BitdialError, match=words):
        CheckpointManager(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "extra", "words"),
    [
        ((-1, WEIGHTS, {}, 0.5), {}, "epoch must be a whole number of at least 0, got -1"),
        ((1.5, WEIGHTS, {}, 0.5), {}, "epoch must be .* got 1.5"),
        (("3", WEIGHTS, {}, 0.5), {}, "epoch must be .* got '3'"),
        ((1, WEIGHTS, {}, "0.5"), {}, r"metric_value \('loss'\) must be a number or None, got '0.5'"),
        ((1, WEIGHTS, {}, torch.ones(2)), {}, "metric_value .* must be a number"),
        ((1, WEIGHTS, {}, 1j), {}, "metric_value .* must be a number"),
        (
            (1, torch.nn.Linear(1, 1), {}, 0.5),
            {},
            r"model_state must be a state dict, got Linear; pass .*state_dict\(\)",
        ),
        ((1, WEIGHTS, [1], 0.5), {}, "optimizer_state must be a state dict, got list"),
        ((1, WEIGHTS, {}, 0.5), {"step": -2}, "step must be a whole number of at least 0, got -2"),
        ((1, WEIGHTS, {}, 0.5), {"metric": 2}, "'metric' is stored by the checkpoint manager itself"),
        ((1, WEIGHTS, {}, 0.5), {"model_state_dict": {}}, "'model_state_dict' is stored by"),
        (
            (1, WEIGHTS, {}, 0.5),
            {"config": argparse.Namespace(a=1)},
            "safely because of config: Namespace; store plain",
        ),
        ((1, WEIGHTS, {}, 0.5), {"rng": {"numpy": [np.zeros(3)]}}, r"because of rng\.numpy\[0\]: ndarray"),
        ((1, WEIGHTS, {}, 0.5), {"history": collections.defaultdict(int)}, "because of history: defaultdict"),
        ((1, WEIGHTS, {}, 0.5), {"hook": lambda: 1}, "cannot store checkpoint .*look at hook: function"),
        ((1, WEIGHTS, {}, 0.5), {"file": os}, "cannot store checkpoint .*look at file: module"),
    ],
)
@pytest.mark.parametrize("background", [False, True])
def test_saves(tmp_path: Path, arguments: tuple[Any, ...], extra: dict[str, Any], words: str, background: bool) -> None:
    manager = CheckpointManager(tmp_path, background=background)
    manager.save_checkpoint(0, WEIGHTS, {}, 0.5)
    manager.wait()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(BitdialError, match=words) as caught, manager:
        manager.save_checkpoint(*arguments, **extra)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BitdialError, match=r"cannot use .* for checkpoints: .*; choose a folder"):
            CheckpointManager(folder)
    with pytest.raises(BitdialError, match="no sound checkpoint named checkpoint-"):
        CheckpointManager(tmp_path / "empty").load_latest()
    with pytest.raises(BitdialError, match="no sound checkpoint"):
        CheckpointManager(tmp_path / "empty").load_best()
    with pytest.raises(BitdialError, match=r"no checkpoint file missing\.pt"):
        CheckpointManager(tmp_path / "empty").load("missing.pt")
    manager = CheckpointManager(tmp_path / "nan")
    manager.save_checkpoint(0, WEIGHTS, None, float("nan"))
    with pytest.raises(BitdialError, match="has a finite loss; use load_latest"):
        manager.load_best()


def test_a_folder_that_cannot_be_written_can_still_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CheckpointManager(tmp_path).save_checkpoint(0, WEIGHTS, {}, 0.5)
    (tmp_path / "checkpoint_tracking.json").unlink()
    really = os.open

    def read_only(path: Any, flags: int, *rest: Any) -> int:
        if flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            raise PermissionError(13, "Permission denied")
        return really(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    manager = CheckpointManager(tmp_path)
    assert manager.load_latest().state["epoch"] == 0
    with pytest.raises(BitdialError, match=r"could not save checkpoint .*Permission denied"):
        manager.save_checkpoint(1, WEIGHTS, {}, 0.5)


def test_numpy_numbers_are_welcome(tmp_path: Path) -> None:
    """Schedulers and metrics hand them over without anybody noticing, and weights_only=True refuses them."""
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(
        np.int64(3), WEIGHTS, {}, np.float32(0.5), scheduler_state_dict={"best": np.float64(0.1), "last": [np.int32(4)]}
    )
    state = manager.load_latest().state
    assert state["scheduler_state_dict"] == {"best": 0.1, "last": [4]}
    assert type(state["scheduler_state_dict"]["best"]) is float
    assert (state["epoch"], state["loss"]) == (3, 0.5)


def test_types_that_the_user_allowed_are_welcome(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        manager.save_checkpoint(0, WEIGHTS, {}, torch.tensor(0.5), config=argparse.Namespace(a=1))
        assert manager.load_latest().state["config"].a == 1
    with pytest.raises(BitdialError, match=r"only unsafe loading would give \(argparse\.Namespace\)"):
        manager.load_latest()


def test_shared_and_recursive_states_stay_so(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"a": 1}
    loop: list[Any] = [shared]
    loop.append(loop)
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(0, WEIGHTS, {}, 0.5, loop=loop, shared=shared)
    state = manager.load_latest().state
    assert state["loop"][1] is state["loop"]
    assert state["loop"][0] is state["shared"]
