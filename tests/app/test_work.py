"""What the page has computed: codecs beside their original, and a worker that dies is told of and replaced."""

from __future__ import annotations

import base64
import io
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bitdial.app.web.worker import Worker
from bitdial.cli import main
from bitdial.errors import BitdialError

pytest.importorskip("PIL")
SMALL = (
    "--model_options.channels 4 --model_options.latent_channels 4 --crop 32 --batch_size 2 --steps 2 --crops 2 "
    "--coded_pictures 1 --lambdas .05 .005"
)


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codecs") / "runs" / "one"
    assert main(["train", "compress", *shlex.split(SMALL), "--run_dir", str(folder)]) == 0
    return folder


def test_original_and_reconstructions_over_lambda(codecs: Path) -> None:
    from PIL import Image

    from bitdial.app.web import work

    assert work.about(str(codecs))["codec"]
    found = work.reconstruct(str(codecs), 0)
    assert [row[0] for row in found["rows"]] == ["lambda 0.05", "lambda 0.005"]
    original, *made = (Image.open(io.BytesIO(base64.b64decode(each["png"]))) for each in found["pictures"])
    assert len(made) == 2
    assert {each.size for each in made} == {original.size}
    assert all(each.tobytes() != original.tobytes() for each in made)
    assert work._open(str(codecs)) is work._open(str(codecs))  # the last run is kept,
    assert work._opened.cache_info().maxsize == 1  # and no other


@pytest.mark.parametrize("number", [-1, 10_000])
def test_a_picture_that_is_not_there(codecs: Path, number: int) -> None:
    from bitdial.app.web import work

    with pytest.raises(BitdialError, match="example: expected 0 to"):
        work.reconstruct(str(codecs), number)


def test_of_many_codecs_some_are_shown_from_the_first_to_the_last(
    codecs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitdial.app.web import work

    names = [f"lambda_{number}" for number in range(100)]
    assert work._spread(names[:8], 8) == names[:8]
    some = work._spread(names, 8)
    assert (len({*some}), some[0], some[-1]) == (8, names[0], names[-1])
    assert sorted(some, key=names.index) == some
    monkeypatch.setattr(work, "MOST_CODECS", 2)
    monkeypatch.setattr(work._open(str(codecs)), "arms", ["lambda_0.05", "lambda_0.05", "lambda_0.005"])
    found = work.reconstruct(str(codecs), 0)
    assert [row[0] for row in found["rows"]] == ["lambda 0.05", "lambda 0.005"]
    assert found["notes"][-1] == "Shown are 2 of the run's 3 codecs, from the first to the last one."
    work._opened.cache_clear()


@pytest.fixture(scope="module")
def dialled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dialled") / "runs" / "one"
    words = f"train joint --model tiny_cnn --steps 3 --limit_train 64 --limit_test 32 --run_dir {folder}"
    assert main(shlex.split(words)) == 0
    return folder


def test_statistics_are_estimated_once_for_each_setting_and_are_those_of_a_sweep(
    dialled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitdial.app.web import work
    from bitdial.evaluation import sweep

    estimated = list[object]()
    estimate = work.reestimate_batch_norm

    def counted(model: Any, *given: Any, **named: Any) -> int:
        estimated.append(model)
        return estimate(model, *given, **named)

    monkeypatch.setattr(work, "reestimate_batch_norm", counted)
    arm = work.about(str(dialled))["arm"]
    opened = work._open(str(dialled))
    model, _ = opened.network(arm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = dict.fromkeys(work.about(str(dialled))["groups"], 2.0)
    first = work.explore(str(dialled), arm, layers, 32, 0)
    assert len(estimated) == len(work.WIDTHS)  # all layers at 2 bits is one of these
    assert first["rows"][0][1:] == first["rows"][1][1:]
    again = work.explore(str(dialled), arm, layers, 32, 5)
    assert len(estimated) == len(work.WIDTHS)
    assert again["facts"] == first["facts"]
    assert again["pictures"] != first["pictures"]
    (plain,) = sweep(model, opened.test, [2.0], recalibration_batches=opened.train, task=opened.run.work.task)
    assert first["facts"]["accuracy"] == f"{100 * plain.accuracy:.1f}%"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    monkeypatch.setattr(work, "MOST_SETTINGS", 3)
    work.explore(str(dialled), arm, dict.fromkeys(layers, 5.0), 32, 0)
    assert len(opened._statistics) == 3


@pytest.fixture
def worker() -> Iterator[Worker]:
    found = Worker()
    yield found
    found.close()


def test_a_worker_that_dies_is_told_of_and_replaced(worker: Worker, tmp_path: Path) -> None:
    assert worker.ask("groups_of", ["a.x", "b.y"]) == {"a": ["a.x"], "b": ["b.y"]}
    with pytest.raises(BitdialError, match="got one that has no results yet"):
        worker.ask("about", str(tmp_path))
    assert worker._pool is not None
    (pid,) = worker._pool._processes or {}
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(BitdialError, match=r"ended.*try again"):
        worker.ask("groups_of", ["a.x"])
    assert worker.ask("groups_of", ["a.x"]) == {"a.x": ["a.x"]}
    assert list(worker._pool._processes or {}) != [pid]
