"""A run that was stopped and resumed is the run that was never stopped, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from bitdial.cli import main
from bitdial.recipes.ternary import TernaryResults
from tests.recipes.ternary.tiny import AUGMENTED, differences, resume, state_of, stopped_before, train

LENGTH = "--epochs 3 --warmup_epochs .5"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything on, never stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert train(f"{LENGTH} {AUGMENTED} --quantizer ttq --checkpoint_interval 1 --keep_last_n 20 --run_dir {path}") == 0
    return path


@pytest.mark.parametrize("step", [1, 4, 7, 13])
def test_exact_in_mid_epoch_with_everything_on(whole: Path, step: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with stopped_before(step):
        assert train(f"{LENGTH} {AUGMENTED} --quantizer ttq --run_dir {run}") == 130
    assert resume(f"--resume {run}") == 0
    assert differences(state_of(whole), state_of(run)) == []
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    one, other = (TernaryResults.load(path / "results.json").networks[0] for path in (whole, run))
    timed = {"seconds": 0, "forward_seconds": 0}
    assert one.model_copy(update=timed) == other.model_copy(update=timed)


def test_from_a_file_inside_a_run_what_was_newer_is_set_aside(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert "run_dir" not in config or config["run_dir"] is None
    (chosen,) = (run / "checkpoints").glob("*-step7.pt")
    assert resume(f"--resume {chosen}") == 0
    assert differences(state_of(whole), state_of(run)) == []
    aside = sorted(path.name for path in (run / "checkpoints" / "set-aside-1").iterdir())
    assert aside
    assert all(name > chosen.name for name in aside)
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_finished_run_is_shown_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert resume(f"--resume {whole}") == 0
    assert "Report:" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_epochs_may_be_raised(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    assert resume(f"--resume {run} --epochs 4") == 0
    results = TernaryResults.load(run / "results.json").networks[0]
    assert (results.epochs, results.steps) == (4, 20)
    assert results.curve.epoch == [1, 2, 3, 4]
    assert yaml.safe_load((run / "config.yaml").read_text())["epochs"] == 4


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--epochs 2", "epochs may only be raised"),
        ("--early_stopping_patience 3", "early_stopping_patience may only be raised"),
        ("--steps 50", "counts epochs"),
        ("--lr .3", "lr must stay 0.1"),
        ("--quantizer twn", "quantizer must stay ttq"),
        ("--no_cutmix", "cutmix must stay True"),
        ("--seeds 2", "seeds must stay 1"),
        ("--keep_best 0", "keep_best must stay 1"),
    ],
)
def test_what_shapes_results_must_stay(
    whole: Path, flags: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole / "config.yaml").read_bytes()
    assert resume(f"--resume {whole} {flags}") == 2
    text = capsys.readouterr().err
    assert sentence in text
    assert text.count("\n") == 1
    assert (whole / "config.yaml").read_bytes() == before


def test_auto_and_the_preset_take_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with stopped_before(2):
            assert train("--epochs 1") == 130
    capsys.readouterr()
    assert resume("--resume auto") == 0
    assert "going on with runs/ternary-2\n" in capsys.readouterr().err
    assert (tmp_path / "runs/ternary-2/results.json").exists()
    assert not (tmp_path / "runs/ternary-1/results.json").exists()
    shutil.rmtree(tmp_path / "runs/ternary-2")
    assert resume("resume") == 0
    assert (tmp_path / "runs/ternary-1/results.json").exists()


def test_a_preset_that_counts_epochs_over_a_run_that_counts_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with stopped_before(2):
        assert train(f"--steps 4 --run_dir {run}") == 130
    capsys.readouterr()
    assert resume(f"quick --resume {run}") == 2
    assert "exclude each other" not in capsys.readouterr().err


def test_early_stopping_goes_on_counting(tmp_path: Path) -> None:
    flags = "--epochs 40 --early_stopping --early_stopping_patience 2 --early_stopping_min_delta .9 --warmup_epochs 0"
    assert train(f"{flags} --run_dir {tmp_path / 'whole'}") == 0
    with stopped_before(12):
        assert train(f"{flags} --run_dir {tmp_path / 'parts'}") == 130
    assert state_of(tmp_path / "parts")["early_stopping"] == {
        "counter": 1,
        "best_score": pytest.approx(0.1, abs=0.5),
        "patience": 2,
    }
    assert resume(f"--resume {tmp_path / 'parts'}") == 0
    one, other = (TernaryResults.load(tmp_path / name / "results.json").networks[0] for name in ("whole", "parts"))
    assert one.stopped_early
    assert other.stopped_early
    assert one.epochs == other.epochs == 3  # the first one improves, two do not
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "parts")) == []


def test_a_checkpoint_has_the_keys_that_people_look_for(whole: Path) -> None:
    state = torch.load(next((whole / "checkpoints").glob("*-step15.pt")), weights_only=True)
    for key in ("epoch", "model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "loss", "accuracy"):
        assert key in state
    assert set(state["early_stopping"]) == {"counter", "best_score", "patience"}
    assert {"scaler_state_dict", "ema_state_dict", "dial", "rng_state", "batch_in_epoch"} <= state.keys()
    assert set(state["dial"]) == {"weights", "activations", "gradients"}
    assert set(state["dial"]["activations"].values()) == {4.0}


def test_a_run_of_another_recipe_is_told_as_such(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "cyclic", "--resume", str(whole)]) == 2
    said = capsys.readouterr().err
    assert f"resume must be a run of cyclic, got {whole}, a run of ternary" in said
    assert f"write `bitdial train ternary --resume {whole}`" in said
