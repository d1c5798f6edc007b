"""What the page has computed: codecs beside their original, and a worker that dies is told of and replaced."""

from __future__ import annotations

import base64
import io
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

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
