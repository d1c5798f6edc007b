"""Runs through the command line that take a second: a small perceptron on the digits."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import bitdial.training.setup as training_module
from bitdial.cli import main
from bitdial.training import Hook, TrainingState, read_checkpoint

SMALL = "--model mlp --batch_size 256 --log_interval 2"
"""Five steps an epoch."""

AUGMENTED = "--cutmix --mixup --random_erasing --ema_decay .9 --early_stopping --activation_bits 4"


def train(flags: str, small: str = SMALL) -> int:
    return main(["train", "ternary", *shlex.split(flags), *shlex.split(small)])


def resume(flags: str) -> int:
    return main(["train", "ternary", *shlex.split(flags)])


@contextmanager
def stopped_before(step: int) -> Iterator[None]:
    """A user who presses Ctrl-C while step number `step` (from 0) is under way."""

    class Stop(Hook):
        def before_step(self, state: TrainingState) -> None:
            if state.step == step:
                state.stop_requested = "a test"

    plain_fit = training_module.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_module, "fit", lambda *a, hooks=(), **k: plain_fit(*a, hooks=[*hooks, Stop()], **k))
        yield


def state_of(run: str | Path) -> dict[str, Any]:
    """The newest checkpoint of a run, without what the clock says."""
    state = read_checkpoint(run, expected=()).state
    state.pop("seconds")
    for hook in state["hooks"].values():
        hook.pop("seconds", None)
    return state


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two states differ, bit for bit."""
    if isinstance(one, Mapping):
        assert one.keys() == other.keys(), place
        return [found for key in one for found in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list | tuple):
        assert len(one) == len(other), place
        return [
            found
            for i, pair in enumerate(zip(one, other, strict=True))
            for found in differences(*pair, f"{place}[{i}]")
        ]
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one.nan_to_num(7), other.nan_to_num(7))
        return [] if same else [place]
    return [] if one == other or (one != one and other != other) else [f"{place}: {one} {other}"]
