"""Runs as other packages write them; and small ones by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

# In a process of its own: wandb starts a service, and one of the runs is killed.
_WANDB = """
import os, signal, sys, time
from pathlib import Path
import numpy, wandb

place = Path(sys.argv[1])

def begin(name, **config):
    (place / name).mkdir()
    return wandb.init(project="pictures", group="first", name=name, dir=str(place / name), config=config)

run = begin("whole", lr=0.001, model={"depth": 3, "widths": [1, 2]}, flag=True, nothing=None)
run.config.update({"model": {"depth": 4}}, allow_val_change=True)
run.define_metric("accuracy", summary="max")
for step in range(300):
    run.log({"loss": 1 / (step + 1), "accuracy": [0.5, 0.9, 0.7][step % 3], "val": {"psnr": step}, "word": "text"})
run.summary["val.psnr"] = 1234
run.summary["best"] = {"loss": 0.25}
run.finish()
run = begin("odd")
for step in range(5):
    run.log({
        "loss": float("nan") if step == 2 else 1.0, "up": float("inf") if step > 2 else 0.0, "down": -float("inf"),
        "size": numpy.float32(2),
    })
table = wandb.Table(columns=["a", "b"], data=[[1, 2]])
picture = wandb.Image(numpy.zeros((8, 8, 3), numpy.uint8))
run.log({"picture": picture, "bars": wandb.Histogram([1, 2, 3]), "table": table, "end": float("nan")})
run.finish()
run = begin("failed")
run.log({"loss": 1})
run.finish(exit_code=3)
begin("silent").finish()
run = begin("killed", lr=0.1)
for step in range(400):
    run.log({"loss": 1 / (step + 1), "text": "x" * 100})
file = next((place / "killed").glob("wandb/offline-run-*/*.wandb"))
while file.stat().st_size < 2 * 32768:  # wandb writes whole blocks, and at its leisure
    time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="session")
def wandb_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> record file, as wandb itself writes them."""
    pytest.importorskip("wandb")
    place = tmp_path_factory.mktemp("wandb")
    offline = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    apart = {f"WANDB_{name}_DIR": str(place / name) for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
    done = subprocess.run(
        [sys.executable, "-c", _WANDB, str(place)], env=os.environ | offline | apart, capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    return {path.relative_to(place).parts[0]: path for path in place.glob("*/wandb/offline-run-*/*.wandb")}


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``sqlite`` and ``journal``: the same two studies, as Optuna writes them."""
    optuna = pytest.importorskip("optuna")
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    place = tmp_path_factory.mktemp("optuna")
    files = {"sqlite": place / "study.db", "journal": place / "study.log"}
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-3, 1, log=True)
        trial.suggest_categorical("kind", ["a", None, True])
        depth = trial.suggest_int("depth", 1, 4)
        trial.set_user_attr("psnr", 30.5)
        for step in range(3):
            trial.report(float("nan") if (trial.number, step) == (0, 1) else float(step), step)
        if trial.number == 1:
            raise optuna.TrialPruned
        if trial.number == 2:
            raise RuntimeError
        return lr + depth

    for storage in (f"sqlite:///{files['sqlite']}", JournalStorage(JournalFileBackend(str(files["journal"])))):
        sampler = optuna.samplers.RandomSampler(seed=0)
        study = optuna.create_study(storage=storage, study_name="one", sampler=sampler)
        study.optimize(objective, n_trials=4, catch=(RuntimeError,))
        study.enqueue_trial({"depth": 2})
        study.ask()
        study.enqueue_trial({"depth": 3})
        several = optuna.create_study(storage=storage, study_name="two", directions=["minimize", "maximize"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls its names experimental
            several.set_metric_names(["bpp", "psnr"])
        several.add_trial(
            optuna.create_trial(
                params={"q": 0.5}, distributions={"q": optuna.distributions.FloatDistribution(0, 1)},
                values=[0.25, float("inf")],
            )
        )  # fmt: skip
    return files


@pytest.fixture(scope="session")
def trackio_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a project, as trackio writes it."""
    pytest.importorskip("trackio")
    place = tmp_path_factory.mktemp("trackio")
    script = """
import trackio
for number in range(2):
    trackio.init(project="pictures", name=f"run-{number}", config={"lr": 0.1 * number, "model": {"depth": 3}})
    for step in range(5):
        trackio.log({"loss": 1 / (step + 1) if step != 3 else float("nan"), "val": {"psnr": step}, "word": "text"})
    trackio.finish()
"""
    environment = os.environ | {"TRACKIO_DIR": str(place)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place / "pictures.db"


@pytest.fixture(scope="session")
def events_of_many_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of event files with a bit of everything, as torch writes them."""
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    place = tmp_path_factory.mktemp("events") / "run"
    with SummaryWriter(str(place)) as writer:
        for step in range(3):
            writer.add_scalar("train/loss", [1.0, float("nan"), 0.5][step], step)
            writer.add_scalar("tensor", step, step, new_style=True)
            writer.add_scalar("double", step / 3, step, new_style=True, double_precision=True)
        writer.add_text("note", "hello")
        writer.add_histogram("bars", np.arange(300.0))
        writer.add_image("picture", np.zeros((3, 64, 64)))
        writer.add_hparams({"lr": 0.1, "kind": "sgd"}, {"hparam/accuracy": 0.5})
    return place
