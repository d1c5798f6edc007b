from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bitdial.errors import BitdialError
from bitdial.search.readers import read_runs
from tests.search.readers.fabricate import cyclic_record, run_folder


@pytest.fixture(scope="module")
def sound(
    wandb_runs: dict[str, Path],
    studies: dict[str, Path],
    trackio_project: Path,
    events_of_many_kinds: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with a run of every kind."""
    root = tmp_path_factory.mktemp("sound")
    shutil.copytree(wandb_runs["whole"].parents[2], root / "wandb-run", symlinks=True)
    shutil.copytree(events_of_many_kinds, root / "events")
    for file in (*studies.values(), trackio_project):
        shutil.copy(file, root)
    log = "phase,seed,step,train_loss\ncpt,0,30,0.25\n"
    run_folder(root / "cyclic-1", "cyclic", {"arms": [cyclic_record("cpt", 0)]}, log)
    run_folder(root / "cyclic-2", "cyclic", None, log)
    (root / "log.csv").write_text("step,loss,psnr\n" + "".join(f"{at},{1 / at},{at}\n" for at in range(1, 40)))
    (root / "table.csv").write_text("lr,act,loss\n0.1,relu,1\n0.2,tanh,2\n")
    old = root / "lambda_0.013_gamma_0.003_wlr_0.025"
    old.mkdir()
    (old / "metrics.json").write_text('{"psnr": 31.5, "bpp": 0.25}')
    (root / "empty").mkdir()
    (root / "notes.txt").write_text("nothing to do with it")
    return root


def test_folder_of_everything(sound: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sound.rglob("*") if path.exists()}
    runs, unread = read_runs(sound)
    assert unread == []
    assert {path: path.stat().st_mtime_ns for path in sound.rglob("*") if path.exists()} == before  # nothing written
    names = [run.name for run in runs]
    (place,) = (sound / "wandb-run" / "wandb").glob("offline-run-*")
    assert names == [
        "cyclic-1:cpt-seed0", "cyclic-2:cpt-seed0", "events", "lambda_0.013_gamma_0.003_wlr_0.025", "log.csv",
        "pictures.db#run-0", "pictures.db#run-1",
        *(f"study.db:one#{number}" for number in range(5)), "study.db:two#0",
        *(f"study.log:one#{number}" for number in range(5)), "study.log:two#0",
        "table.csv#1", "table.csv#2", f"wandb-run/wandb/{place.name}",
    ]  # fmt: skip
    old = runs[names.index("lambda_0.013_gamma_0.003_wlr_0.025")]
    assert (old.config, old.metrics, old.source) == (
        {"lambda": 0.013, "gamma": 0.003, "wlr": 0.025}, {"psnr": 31.5, "bpp": 0.25}, "json"
    )  # fmt: skip
    assert {run.source for run in runs} == {"bitdial", "wandb", "tensorboard", "csv", "json", "trackio", "optuna"}


def test_single_file_and_folder_of_one_run(sound: Path) -> None:
    assert [run.name for run in read_runs(sound / "log.csv")[0]] == ["log.csv"]
    assert [run.name for run in read_runs(sound / "cyclic-1")[0]] == ["cyclic-1:cpt-seed0"]
    assert [run.name for run in read_runs(sound / "events")[0]] == ["events"]
    old = "lambda_0.013_gamma_0.003_wlr_0.025"
    assert [run.name for run in read_runs(sound / old)[0]] == [old]
    assert read_runs(sound / "empty") == ([], [])


def test_folder_that_is_not_there() -> None:
    with pytest.raises(BitdialError, match="expected a folder of finished runs, got nowhere, which is not there"):
        read_runs(Path("nowhere"))


def test_what_cannot_be_read_is_named_with_the_reason(sound: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    for name in ("x.csv", "x.wandb", "x.db", "events.out.tfevents.1", "results.json"):
        (tmp_path / "random").mkdir(exist_ok=True)
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "random" / name).write_bytes(rng.randbytes(5000))
        (tmp_path / "empty" / name).write_bytes(b"")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "metrics.json").mkdir()
    (tmp_path / "my_results.json").write_text("nothing to do with it")
    (tmp_path / ".hidden.csv").write_text("")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "log.csv").write_text("step,loss\n1,2\n")
    (tmp_path / "folder.csv" / "log.csv").write_text("step,loss\n1,2\n")
    (tmp_path / "gone.csv").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "up").symlink_to(tmp_path)  # met where it really is
    (tmp_path / "again.csv").symlink_to(tmp_path / "folder.csv" / "log.csv")
    (tmp_path / "elsewhere").symlink_to(sound / "cyclic-1")
    (tmp_path / "elsewhere too").symlink_to(sound / "cyclic-1")
    os.mkfifo(tmp_path / "pipe.csv")  # whoever opens it waits for ever
    for name in ("config.yaml", "metrics.csv", "config.json"):
        (tmp_path / "pipes").mkdir(exist_ok=True)
        os.mkfifo(tmp_path / "pipes" / name)
    (tmp_path / "pipes" / "log.csv").write_text("step,loss\n1,2\n")
    (tmp_path / os.fsdecode(b"caf\xe9.csv")).write_text("step,loss\n1,2\n")
    runs, unread = read_runs(tmp_path)
    names = ["caf\\xe9.csv", "elsewhere:cpt-seed0", "folder.csv/log.csv", "pipes/log.csv"]
    assert [run.name for run in runs] == names
    told = {each.path.relative_to(tmp_path).as_posix(): each.reason for each in unread}
    assert told.pop("random/results.json").startswith("no JSON (")
    assert told == {
        "empty/events.out.tfevents.1": "an empty file",
        "empty/results.json": "an empty file",
        "empty/x.csv": "an empty file",
        "empty/x.db": "an empty file",
        "empty/x.wandb": "an empty file",
        "folder.csv": "a folder that is named as a file",
        "gone.csv": "a link that leads nowhere",
        "loop": "a link that leads nowhere",
        "metrics.json": "a folder that is named as a file",
        "pipe.csv": "no regular file",
        "pipes/metrics.csv": "no regular file",
        "random/events.out.tfevents.1": "no event in it is whole",
        "random/x.csv": "holds no text, though it is named as a table",
        "random/x.db": "does not begin as a database of SQLite does",
        "random/x.wandb": "does not begin as a record file of wandb does",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    for name in ("log.csv", "x.wandb", "events.out.tfevents.1", "metrics.json", "x.db"):
        (tmp_path / name).write_text("step,loss\n1,2\n")
        (tmp_path / name).chmod(0)
    (tmp_path / "folder").mkdir(mode=0)
    runs, unread = read_runs(tmp_path)
    assert runs == []
    assert [each.reason for each in unread] == ["cannot be opened (Permission denied)"] * 6


def test_settings_beside_logs(tmp_path: Path) -> None:
    """As Lightning's loggers leave them."""
    folder = tmp_path / "version_0"
    folder.mkdir()
    (folder / "hparams.yaml").write_text("lr: 0.1\nmodel:\n  depth: 3\n")
    (folder / "metrics.csv").write_text("epoch,step,train_loss\n0,10,0.5\n1,20,0.25\n")
    (run,) = read_runs(tmp_path)[0]
    assert (run.config, run.metrics, run.steps) == ({"lr": 0.1, "model.depth": 3}, {"train_loss": 0.25}, 20)


def test_names_are_unique_and_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9):
        (tmp_path / f"run-{number}.csv").write_text("name,loss\na,1\na,2\n")
    names = [run.name for run in read_runs(tmp_path)[0]]
    assert names == ["run-9.csv#a", "run-9.csv#a (2)", "run-10.csv#a", "run-10.csv#a (2)"]


def test_what_wrote_the_runs_is_not_imported(sound: Path) -> None:
    code = (
        "import sys, pathlib; from bitdial.search.readers import read_runs; "
        "before = {*sys.modules}; runs, _ = read_runs(pathlib.Path(sys.argv[1])); "
        "print(len(runs), 'numpy' in before, *({'wandb', 'trackio', 'optuna', 'pandas', 'torch'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(sound)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["22", "False"]


Damage = Callable[[bytearray, random.Random], bytes]
DAMAGE: list[Damage] = [
    lambda data, rng: bytes(data[: rng.randrange(len(data))]),
    lambda data, rng: _flipped(data, rng, 1),
    lambda data, rng: _flipped(data, rng, 20),
    lambda data, rng: _with_a_hole(data, rng, b""),
    lambda data, rng: _with_a_hole(data, rng, rng.randbytes(300)),
    lambda data, rng: bytes(data[:40]) + rng.randbytes(rng.randrange(3000)),
]


def _flipped(data: bytearray, rng: random.Random, count: int) -> bytes:
    for _ in range(count):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _with_a_hole(data: bytearray, rng: random.Random, filling: bytes) -> bytes:
    at = rng.randrange(len(data))
    return bytes(data[:at] + filling + data[at + rng.randrange(1, 300) :])


KINDS = [
    "wandb-run/**/*.wandb", "events/events*", "events/*/events*", "study.db", "study.log", "pictures.db", "log.csv",
    "table.csv", "lambda*/metrics.json", "cyclic-1/results.json", "cyclic-2/config.yaml", "cyclic-2/metrics.csv",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_damage_never_raises_and_is_told(kind: str, sound: Path, tmp_path: Path) -> None:
    (source,) = sound.glob(kind)
    whole, rng = source.read_bytes(), random.Random(kind)
    belongs_to_a_run = kind.startswith("cyclic")
    place = tmp_path / source.name
    if belongs_to_a_run:
        shutil.copytree(source.parent, tmp_path, dirs_exist_ok=True)
    told = 0
    for number in range(300):
        damaged = DAMAGE[number % len(DAMAGE)](bytearray(whole), rng)
        place.unlink(missing_ok=True)  # writing over a file waits for the disk
        place.write_bytes(damaged)
        runs, unread = read_runs(tmp_path)
        assert not any("no reader knows" in each.reason for each in unread), unread
        told += bool(unread) or any(run.notes for run in runs)
        for run in runs:
            run.name.encode()
            assert all(type(value) is float for value in run.metrics.values())
            assert all(isinstance(value, str | int | float | None) for value in run.config.values())
            assert run.steps is None or type(run.steps) is int
            json.dumps([run.name, run.config, run.metrics, run.notes, run.group, run.state])
    assert told > 30  # flipped digits in a text are no damage that anybody could see
