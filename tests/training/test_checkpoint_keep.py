"""What is kept: the last N, the true best M of all ever saved, the one resumed from; and nobody else's files."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitdial.errors import BitdialError
from bitdial.training.checkpoint import CheckpointManager

LOSSES = [0.5, 0.9, 0.51, 0.52, 0.9, 0.9, 0.9]


def save(manager: CheckpointManager, epoch: int, metric: float | None, **extra: Any) -> Path:
    return manager.save_checkpoint(epoch, {"w": torch.tensor([float(epoch)])}, {"lr": 0.1}, metric, **extra)


def epochs(manager: CheckpointManager) -> list[int]:
    return [int(path.name.rsplit("epoch", 1)[1][:4]) for path in manager.checkpoints]


@pytest.mark.parametrize("restart_after", [None, 1, 2, 3, 4, 5, 6])
def test_keeps_the_true_best_and_the_last_also_across_a_restart(tmp_path: Path, restart_after: int | None) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=2, keep_best=3)
    for epoch, loss in enumerate(LOSSES):
        if epoch == restart_after:
            manager = CheckpointManager(tmp_path, keep_last_n=2, keep_best=3)
        save(manager, epoch, loss)
    assert epochs(manager) == [0, 2, 3, 5, 6]  # .5, .51, .52 and the last two
    assert len(list(tmp_path.glob("*.pt"))) == 5
    tracked = json.loads((tmp_path / "checkpoint_tracking.json").read_text())
    assert [entry["metric"] for entry in tracked["best_checkpoints"]] == [0.5, 0.51, 0.52]
    assert tracked["last_checkpoints"] == [path.name for path in manager.checkpoints[-2:]]
    named = [*tracked["last_checkpoints"], *(entry["path"] for entry in tracked["best_checkpoints"])]
    assert all(isinstance(name, str) and (tmp_path / name).is_file() for name in named)


def test_higher_can_be_better(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, 1, 2, metric="accuracy", higher_is_better=True)
    for epoch, accuracy in enumerate([0.1, 0.9, 0.3, 0.8, 0.2]):
        save(manager, epoch, accuracy)
    assert epochs(manager) == [1, 3, 4]
    assert manager.load_best().state["accuracy"] == 0.9


@pytest.mark.parametrize("higher", [False, True])
def test_non_finite_metrics_never_count_as_best(tmp_path: Path, higher: bool) -> None:
    manager = CheckpointManager(tmp_path, 1, 2, higher_is_better=higher)
    for epoch, loss in enumerate([math.nan, math.inf, -math.inf, 0.7, math.nan, None, 0.6, math.inf]):
        save(manager, epoch, loss, is_best=loss is not None and not math.isfinite(loss))
    assert epochs(manager) == [3, 6, 7]
    assert ("epoch0003" if higher else "epoch0006") in str(manager.best)
    manager = CheckpointManager(tmp_path, 1, 2, higher_is_better=higher)
    assert math.isinf(manager.load_latest().state["loss"])
    assert json.loads(manager.tracking_path.read_text())["last_checkpoints"] == [manager.checkpoints[-1].name]


def test_is_best_adds_a_file_and_never_takes_one_away(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, 1, 1)
    save(manager, 0, 0.2, is_best=False)  # the caller is wrong: it is the best
    save(manager, 1, 0.9, is_best=True)
    save(manager, 2, 0.8, is_best=True)
    save(manager, 3, 0.7)
    assert epochs(manager) == [0, 2, 3]


def test_of_equal_metrics_the_earlier_is_the_best(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, 1, 1)
    for epoch in range(4):
        save(manager, epoch, 0.5)
    assert epochs(manager) == [0, 3]


def test_several_saves_in_one_epoch_are_in_the_order_of_saving(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=3, keep_best=0)
    for step in (2, 10, 9_999, 10_000, 100_000):
        save(manager, 1, 0.5, step=step)
    manager = CheckpointManager(tmp_path, keep_last_n=3, keep_best=0)
    assert manager.load_latest().state["step"] == 100_000
    assert [path.name.split("step")[1] for path in manager.checkpoints] == ["9999.pt", "10000.pt", "100000.pt"]
    assert manager.checkpoints == sorted(tmp_path.glob("*.pt"))


def test_a_run_that_went_back_goes_on_from_where_it_went(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=2, keep_best=1)
    for epoch in range(6):
        save(manager, epoch, 1.0 + epoch)
    manager = CheckpointManager(tmp_path, keep_last_n=2, keep_best=1)
    assert manager.load_best().state["epoch"] == 0
    save(manager, 1, 5.0)  # an earlier epoch than those on disk, and the newest all the same
    assert manager.load_latest().state["epoch"] == 1
    save(manager, 2, 5.0)
    assert epochs(manager) == [0, 1, 2]


def test_the_one_resumed_from_is_kept(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1, keep_best=1)
    save(manager, 0, 0.1)
    save(manager, 1, 0.9)
    manager = CheckpointManager(tmp_path, keep_last_n=1, keep_best=1)
    manager.load_latest()
    for epoch in range(2, 6):
        save(manager, epoch, 0.9)
        assert 1 in epochs(manager)
    manager.load_best()  # a look at the best in the middle does not let go of it
    save(manager, 6, 0.9)
    assert epochs(manager) == [0, 1, 6]


OF_AN_OLDER_VERSION = '{"last_checkpoints": [{"path": "gone.pt", "metric": 0}]}'


@pytest.mark.parametrize("lie", ["", "[]", OF_AN_OLDER_VERSION, '{"last_checkpoints": ["gone.pt"]}', "\xff\x00"])
def test_the_registry_comes_from_the_files_whatever_the_tracking_file_says(tmp_path: Path, lie: str) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=2, keep_best=3)
    for epoch, loss in enumerate(LOSSES[:4]):
        save(manager, epoch, loss)
    truth = manager.tracking_path.read_text()
    manager.tracking_path.write_bytes(lie.encode("latin-1"))
    manager = CheckpointManager(tmp_path, keep_last_n=2, keep_best=3)
    assert manager.tracking_path.read_text() == truth
    manager.tracking_path.unlink()
    manager = CheckpointManager(tmp_path, keep_last_n=2, keep_best=3)
    for epoch in (4, 5, 6):
        save(manager, epoch, 0.9)
    assert epochs(manager) == [0, 2, 3, 5, 6]


def test_a_moved_run_folder_still_works(tmp_path: Path) -> None:
    save(CheckpointManager(tmp_path / "a"), 3, 0.5)
    shutil.move(tmp_path / "a", tmp_path / "b")
    manager = CheckpointManager(tmp_path / "b")
    entry = json.loads(manager.tracking_path.read_text())["best_checkpoints"][0]
    assert manager.best == tmp_path / "b" / entry["path"]
    assert manager.load_best().state["epoch"] == 3


@pytest.mark.parametrize(
    "prefixes", [("checkpoint", "checkpoint"), ("a", "b"), ("a", "a-000001-epoch0001"), ("x", "x.x"), ("A-1", "A")]
)
def test_two_managers_never_touch_each_other(tmp_path: Path, prefixes: tuple[str, str]) -> None:
    same = prefixes[0] == prefixes[1]
    folders = [tmp_path / "one", tmp_path / ("two" if same else "one")]
    managers = [
        CheckpointManager(folder, 1, 1, prefix=prefix) for folder, prefix in zip(folders, prefixes, strict=True)
    ]
    for epoch, loss in enumerate([0.5, 0.4, 0.9, 0.8]):
        for manager in managers:
            save(manager, epoch, loss)
    for manager in managers:
        assert epochs(manager) == [1, 3]
        assert manager.load_latest().state["epoch"] == 3
    # Nor at the next start, with the other's half-written file lying about.
    left = folders[1] / f".{prefixes[1]}-000009-epoch0009.pt.tmp"
    left.write_bytes(b"half")
    save(CheckpointManager(folders[0], 1, 1, prefix=prefixes[0]), 4, 0.9)
    assert left.exists()
    assert epochs(managers[1]) == [1, 3]
    save(CheckpointManager(folders[1], 1, 1, prefix=prefixes[1]), 4, 0.9)
    assert not left.exists()


def test_foreign_files_are_never_deleted_nor_counted(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1, keep_best=1)
    first = save(manager, 0, 0.5)
    foreign = {
        "notes.txt": b"mine",
        "model.pt": b"PK\x03\x04",
        "checkpoint-best.pt": b"x",
        "checkpoint-12-epoch1.pt": b"too few digits",
        ".checkpoint.tmp": b"x",
        ".other-000001-epoch0001.pt.tmp": b"x",
        "checkpoint-000002-epoch0001.pt.bak": b"x",
        "checkpoint-000000-epoch0000.pt": b"not ours although so called",
        "checkpoint-000777-epoch0000.pt": first.read_bytes(),  # a renamed copy
    }
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "checkpoint-000003-epoch0009.pt").mkdir()
    manager = CheckpointManager(tmp_path, keep_last_n=1, keep_best=1)
    for epoch in range(1, 4):
        save(manager, epoch, 0.9)
    assert {name: (tmp_path / name).read_bytes() for name in foreign} == foreign
    assert (tmp_path / "checkpoint-000003-epoch0009.pt").is_dir()
    assert epochs(manager) == [0, 3]


def test_files_removed_by_hand_are_forgotten(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1, keep_best=2)
    for epoch, loss in enumerate([0.1, 0.2, 0.3]):
        save(manager, epoch, loss)
    assert manager.best is not None
    manager.best.unlink()
    assert manager.load_best().state["loss"] == 0.2
    save(manager, 3, 0.4)
    assert [entry["metric"] for entry in json.loads(manager.tracking_path.read_text())["best_checkpoints"]] == [
        0.2,
        0.3,
    ]
    shutil.rmtree(tmp_path)
    assert manager.latest is None
    save(manager, 4, 0.5)
    assert epochs(manager) == [4]


def test_a_folder_ranked_by_another_metric_is_refused(tmp_path: Path) -> None:
    save(CheckpointManager(tmp_path, metric="loss"), 0, 0.5)
    with pytest.raises(BitdialError, match=r"ranked by 'loss' .*got 'accuracy'"):
        CheckpointManager(tmp_path, metric="accuracy", higher_is_better=True)
    CheckpointManager(tmp_path, metric="accuracy", higher_is_better=True, prefix="other")


# A plain model of what must be on disk after any sequence of saves, restarts and resumptions.
METRICS = st.one_of(st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf, -math.inf, None]), st.floats(-5, 5))
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), METRICS),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("resume"), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS, st.integers(1, 3), st.integers(0, 3), st.booleans(), st.booleans())
def test_the_kept_set_is_that_of_a_plain_model(
    tmp_path_factory: pytest.TempPathFactory,
    actions: list[tuple[str, float | None]],
    last_n: int,
    best_n: int,
    higher: bool,
    background: bool,
) -> None:
    folder = tmp_path_factory.mktemp("kept")

    def start() -> CheckpointManager:
        return CheckpointManager(folder, last_n, best_n, higher_is_better=higher, background=background)

    manager, resumed, loaded, saved = start(), None, None, False
    model: dict[int, float | None] = {}
    for count, (action, metric) in enumerate(actions):
        if action == "save":
            save(manager, count, metric)
            model[count] = metric
            saved = True
            order = sorted(model)
            fit = [(value, epoch) for epoch in order if (value := model[epoch]) is not None and math.isfinite(value)]
            fit.sort(key=lambda pair: -pair[0] if higher else pair[0])
            keep = {*order[-last_n:], *(epoch for _, epoch in fit[:best_n]), resumed, loaded}
            model = {epoch: value for epoch, value in model.items() if epoch in keep}
        elif action == "restart":
            manager.close()
            manager, resumed, loaded, saved = start(), None, None, False
        elif model:
            loaded = manager.load_latest().state["epoch"]
            assert loaded == max(model)
            resumed = resumed if saved else loaded
        manager.wait()
        assert epochs(manager) == sorted(model)
    manager.close()
    shutil.rmtree(folder)
