"""A run that is stopped and resumed is the run that was never stopped, bit for bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from bitdial.errors import BitdialError
from bitdial.training import EarlyStopping
from tests.training.running import Jumping, comparable, config, differences, load, network, train

KINDS = ("jumping", "shuffled", "generator", "unsized")


@cache
def uninterrupted(kind: str, optimizer: str = "sgd") -> tuple[dict[str, Any], str]:
    folder = Path(mkdtemp())
    _, saver = train(folder, loader=kind, optimizer=optimizer)
    return comparable(load(saver.paths[-1])), (folder / "metrics.csv").read_text()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [1, 2, 4, 5, 8, 11])
def test_stop_at_any_step_and_resume(kind: str, stop: int, tmp_path: Path) -> None:
    expected, log = uninterrupted(kind)
    state, saver = train(tmp_path, loader=kind, stop=stop)
    assert state is None
    # another seed: nothing may depend on what the new process drew before it resumed
    train(tmp_path, loader=kind, resume=load(saver.paths[-1]), seed=99)
    final = comparable(load(sorted((tmp_path / "checkpoints").iterdir())[-1]))
    assert differences(final, expected) == []
    assert (tmp_path / "metrics.csv").read_text() == log


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_optimizer_resumes(optimizer: str, tmp_path: Path) -> None:
    expected, log = uninterrupted("jumping", optimizer)
    _, saver = train(tmp_path, stop=5, optimizer=optimizer)
    _, saver = train(tmp_path, resume=load(saver.paths[-1]), optimizer=optimizer)
    assert differences(comparable(load(saver.paths[-1])), expected) == []
    assert (tmp_path / "metrics.csv").read_text() == log


def test_stopped_three_times(tmp_path: Path) -> None:
    expected, log = uninterrupted("shuffled")
    _, saver = train(tmp_path, loader="shuffled", stop=2)
    for stop in (3, 9, None):
        _, saver = train(tmp_path, loader="shuffled", stop=stop, resume=load(saver.paths[-1]))
    assert differences(comparable(load(saver.paths[-1])), expected) == []
    assert (tmp_path / "metrics.csv").read_text() == log


@pytest.mark.parametrize("kind", ["jumping", "unsized"])
@pytest.mark.parametrize("killed_after", [5, 7, 8, 9])
def test_killed_between_two_checkpoints(kind: str, killed_after: int, tmp_path: Path) -> None:
    """The log went on after the last checkpoint and ends in half a line; the resumed run repairs it."""
    _, log = uninterrupted(kind)
    settings = config(checkpoint_interval=4)
    train(tmp_path, loader=kind, stop=killed_after, settings=settings)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("9,9,")
    saved_at_4 = next(path for path in (tmp_path / "checkpoints").iterdir() if "step4." in path.name)
    train(tmp_path, loader=kind, resume=load(saved_at_4), settings=settings)
    assert (tmp_path / "metrics.csv").read_text() == log


def test_a_jumping_loader_computes_no_batch_twice(tmp_path: Path) -> None:
    _, saver = train(tmp_path, stop=6)  # 4 steps of 7 batches, then 2 steps of 2
    loader = Jumping()
    train(tmp_path, loader=loader, resume=load(saver.paths[-1]))
    assert loader.served[0] == (1, 4)
    assert len(loader.served) == len(set(loader.served)) == 3 * 7 - 11


def test_a_longer_run_follows_the_schedule_of_the_longer_run(tmp_path: Path) -> None:
    _, saver = train(tmp_path, settings=config(epochs=2))
    state, _ = train(tmp_path, resume=load(saver.paths[-1]), settings=config(epochs=4))
    assert state is not None
    assert (state.step, state.epoch) == (16, 4)
    assert state.history["step"] == list(range(1, 17))


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    state, saver = train(tmp_path)
    assert state is not None
    before = (tmp_path / "metrics.csv").read_text()
    again, _ = train(tmp_path, resume=load(saver.paths[-1]))
    assert again is not None
    assert again.step == 12
    assert differences(again.model.state_dict(), state.model.state_dict()) == []
    assert (tmp_path / "metrics.csv").read_text() == before


def test_early_stopping_is_restored(tmp_path: Path) -> None:
    stopping = EarlyStopping(patience=3, min_delta=0.01)
    for score in (0.5, 0.505, 0.2):
        stopping.update(score)
    other = EarlyStopping(patience=7, min_delta=0.01)
    other.load_state_dict(stopping.state_dict())
    assert other.state_dict() == {"counter": 2, "best_score": 0.5, "patience": 7}
    assert not other.should_stop
    assert [other.update(0.1) for _ in range(5)] == [False] * 4 + [True]


def test_a_bare_state_dict_is_accepted_with_a_note(tmp_path: Path) -> None:
    weights = network().state_dict()
    with pytest.warns(UserWarning, match="resume: ") as caught:
        state, _ = train(tmp_path, resume=weights, settings=config(epochs=None, steps=1))
    said = " ".join(str(warning.message) for warning in caught)
    for lost in ("optimizer state", "which step", "weight average", "early stopping", "random states", "CyclingBits"):
        assert lost in said
    assert state is not None
    assert state.step == 1


def test_an_older_checkpoint_with_model_and_optimizer(tmp_path: Path) -> None:
    _, saver = train(tmp_path, stop=5)
    whole = load(saver.paths[-1])
    with pytest.warns(UserWarning, match="resume: "):
        state, _ = train(
            tmp_path,
            resume={key: whole[key] for key in ("model_state_dict", "optimizer_state_dict")},
            settings=config(epochs=None, steps=1, ema_decay=0.0),
        )
    assert state is not None
    started = {name: value for name, value in whole["model_state_dict"].items() if value.is_floating_point()}
    moved = [name for name, value in started.items() if not torch.equal(value, state.model.state_dict()[name])]
    assert len(moved) == len(started)


def test_another_number_of_threads_is_told(tmp_path: Path) -> None:
    """Sums over more threads are rounded otherwise, so a CPU then goes on alike but not bit for bit."""
    _, saver = train(tmp_path, stop=5)
    whole = load(saver.paths[-1])
    now = torch.get_num_threads()
    assert whole["threads"] == now
    state = {**whole, "threads": now + 1}
    said = rf"made with torch on {now + 1} threads and this run has {now} thread.*same place, but not bit for bit"
    with pytest.warns(UserWarning, match=said):
        train(tmp_path, resume=state)


def test_threads_are_not_spoken_of_where_they_are_the_same_or_unknown(tmp_path: Path) -> None:
    _, saver = train(tmp_path, stop=5)
    whole = load(saver.paths[-1])
    del whole["threads"]  # as in a checkpoint of an older version
    train(tmp_path, resume=whole)  # a warning would be an error here


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BitdialError, match=r"does not fit the model.*0\.weight"):
        train(tmp_path, resume={"model_state_dict": torch.nn.Linear(2, 2).state_dict()})
    with pytest.raises(BitdialError, match=r"expected a checkpoint .* got the keys lr"):
        train(tmp_path, resume={"lr": 0.1})
