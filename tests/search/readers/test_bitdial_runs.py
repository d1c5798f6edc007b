from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import bitdial
from bitdial.search.readers import read_runs
from bitdial.search.readers.bitdial_runs import is_bitdial_run, read_bitdial
from bitdial.search.readers.found import FoundRun
from tests.search.readers.fabricate import (
    codec_record,
    cyclic_record,
    run_folder,
    score,
    ternary_record,
)

SETTINGS = {"model": "mlp", "epochs": 2, "lr": 0.1, "skip_layers": '["<first>"]', "cyclic.cycle_length": 10}


def read(folder: Path) -> dict[str, FoundRun]:
    assert is_bitdial_run(folder)
    return {run.name: run for run in read_bitdial(folder, folder.name)}


def test_arms_and_seeds_are_runs(tmp_path: Path) -> None:
    arms = [cyclic_record("cpt", 0), cyclic_record("cpt", 1), cyclic_record("static_4bit", 0)]
    log = (
        "phase,seed,step,bits,train_loss\ncpt,0,20,4.0,nan\ncpt,1,20,4.0,0.6\ncpt,0,30,8.0,0.5\nstatic_4bit,0,30,4.0,\n"
    )
    runs = read(run_folder(tmp_path / "run", "cyclic", {"arms": arms}, log))
    assert list(runs) == ["run:cpt-seed0", "run:cpt-seed1", "run:static_4bit-seed0"]
    run = runs["run:cpt-seed0"]
    assert (run.source, run.state, run.steps, run.group) == ("bitdial", "finished", 30, "run")
    assert run.config == {"recipe": "cyclic", **SETTINGS, "seed": 0, "arm": "cpt", "kind": "cpt"}
    assert run.metrics == {
        "accuracy_2bit": 0.5, "loss_2bit": 0.5, "accuracy_8bit": 0.75, "loss_8bit": 0.5, "own.bits": 8,
        "own.accuracy": 0.75, "own.loss": 0.5, "bitops": 1e9, "iterations": 30, "bits": 8, "train_loss": 0.5,
    }  # fmt: skip
    assert run.notes == ["train_loss was first not finite (nan) at step 20"]
    assert runs["run:cpt-seed1"].config["seed"] == 1
    assert runs["run:cpt-seed1"].metrics["accuracy_2bit"] == 0.6
    assert runs["run:cpt-seed1"].metrics["train_loss"] == 0.6


def test_experiments_of_ternary_training_have_their_own_settings(tmp_path: Path) -> None:
    networks = [ternary_record("a"), ternary_record("b")]
    folder = run_folder(tmp_path / "run", "ternary", {"networks": networks}, experiments={"b": {"lr": 0.5}})
    runs = read(folder)
    assert runs["run:a-seed0"].config["lr"] == 0.1
    assert runs["run:b-seed0"].config["lr"] == 0.5
    run = runs["run:b-seed0"]
    assert (run.config["quantizer"], run.config["activation_bits"], run.config["teacher"]) == ("twn", 8.0, None)
    assert math.isnan(run.metrics.pop("test.accuracy"))
    assert run.metrics == {
        "steps": 5, "stopped_early": 1, "validation.accuracy": 0.25, "validation.loss": 2, "test.loss": 2.5,
        "zeros.fc2": 0.35,
    }  # fmt: skip
    assert run.notes == ["test.accuracy is nan"]


def test_widths_of_joint_training_with_what_goes_with_them(tmp_path: Path) -> None:
    record = {
        "name": "joint", "seed": 0, "scores": [score(2.0, 0.5, metrics={"top5": 0.9}), score(2.5, 0.75)],
        "size_bytes": [100, 200], "relative_bitops": [0.1, 0.2], "steps": 10, "epochs": [{"epoch": 1}, {"epoch": 2}],
        "validation": {"accuracy": {"mean": 0.7}, "correlation": None},
    }  # fmt: skip
    run = read(run_folder(tmp_path / "run", "joint", {"networks": [record]}, "step,val_loss\n5,0.5\n10,0.25\n"))
    assert run["run:joint-seed0"].metrics == {
        "accuracy_2bit": 0.5, "loss_2bit": 0.5, "top5_2bit": 0.9, "accuracy_2.5bit": 0.75, "loss_2.5bit": 0.5,
        "size_bytes_2bit": 100, "size_bytes_2.5bit": 200, "relative_bitops_2bit": 0.1, "relative_bitops_2.5bit": 0.2,
        "steps": 10, "validation.accuracy.mean": 0.7, "val_loss": 0.25,
    }  # fmt: skip


def test_codec_is_what_its_own_files_are(tmp_path: Path) -> None:
    record = codec_record(0.02)
    folder = run_folder(tmp_path / "run", "compress", {"networks": [record]}, lambda_value=0.013)
    run = read(folder)["run:codec-seed0"]
    assert run.config["lambda_value"] == 0.02
    # All bits over all pixels; the picture that JPEG gives back exactly is in no mean, as in the run's own report.
    assert run.metrics == {"bpp": 1.2, "psnr": 32, "encode_seconds": 2, "decode_seconds": 1, "steps": 600}


def test_run_that_was_stopped(tmp_path: Path) -> None:
    log = "phase,seed,step,train_loss\ncpt,0,20,0.5\ncpt,0,30,0.25\nstatic_4bit,0,10,nan\n"
    folder = run_folder(tmp_path / "run", "cyclic", None, log)
    (folder / "checkpoints" / "cpt-seed0").mkdir()
    (folder / "checkpoints" / "cpt-seed0" / "arm.json").write_text(json.dumps(cyclic_record("cpt", 0)))
    runs = read(folder)
    done, stopped = runs["run:cpt-seed0"], runs["run:static_4bit-seed0"]
    assert (done.state, done.metrics["own.accuracy"], done.metrics["train_loss"]) == ("finished", 0.75, 0.25)
    assert (stopped.state, stopped.steps) == ("running or crashed", 10)
    assert stopped.config == {"recipe": "cyclic", **SETTINGS, "seed": 0, "arm": "static_4bit"}
    assert math.isnan(stopped.metrics["train_loss"])
    assert stopped.notes[0] == "not finished: the last step in its log is 10"


def test_trial_of_a_search_leaves_records_and_no_results(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", "joint", None, "step,val_loss\n30,0.5\n")
    for name in ("joint-seed0", "joint-seed0-trial"):  # measured in full after the search
        (folder / "models" / f"{name}.json").write_text(json.dumps(cyclic_record("joint", 0)))
    (run,) = read(folder).values()
    assert (run.name, run.state, run.steps, run.notes) == ("run:joint-seed0", "finished", 30, [])
    assert (run.metrics["own.accuracy"], run.metrics["val_loss"]) == (0.75, 0.5)


def test_stopped_run_of_one_arm_is_called_as_it_would_be_in_the_end(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", "compress", None, "step,val_bpp\n20,0.5\n")
    (folder / "checkpoints" / "codec-seed0_tracking.json").write_text("{}")
    (run,) = read(folder).values()
    assert (run.name, run.metrics, run.config["arm"]) == ("run:codec-seed0", {"val_bpp": 0.5}, "codec")


def test_stopped_run_of_several_lambdas(tmp_path: Path) -> None:
    log = "arm,seed,step,val_bpp\nlambda_0.05,0,20,0.5\nlambda_0.01,0,10,0.75\n"
    runs = read(run_folder(tmp_path / "run", "compress", None, log, lambda_value=0.013))
    assert [run.config["lambda_value"] for run in runs.values()] == [0.05, 0.01]


def test_run_that_has_just_begun(tmp_path: Path) -> None:
    (run,) = read(run_folder(tmp_path / "run", "joint", None)).values()
    assert (run.state, run.metrics, run.steps) == ("running or crashed", {}, None)
    assert run.notes == ["not finished: nothing is logged yet", "no metric was logged"]


def test_damaged_parts_cost_themselves(tmp_path: Path) -> None:
    log = "step,val_loss\n5,0.5\n10,0.25\n15,0."
    folder = run_folder(tmp_path / "run", "joint", {"networks": [cyclic_record("joint", 0)]}, log)
    (folder / "results.json").write_text((folder / "results.json").read_text()[:-40])
    (run,) = read(folder).values()
    assert (run.state, run.config["lr"]) == ("running or crashed", 0.1)
    assert run.notes[0].startswith("results.json: damaged (")
    (folder / "config.yaml").write_text("recipe: joint\n\t[")
    (run,) = read(folder).values()
    assert run.config == {"arm": None, "seed": None}
    assert run.notes[1].startswith("config.yaml: damaged (")
    folder = run_folder(
        tmp_path / "other", "compress", {"networks": [{**codec_record(1), "points": [{"part": "own"}]}]}
    )
    (run,) = read(folder).values()
    assert run.notes[0] == "part of its record is damaged (KeyError: 'psnr')"


def test_everything_in_the_folder_of_a_run_belongs_to_it(tmp_path: Path) -> None:
    log = "phase,seed,step,train_loss\ncpt,0,30,0.25\n"
    folder = run_folder(tmp_path / "runs" / "cyclic-1", "cyclic", {"arms": [cyclic_record("cpt", 0)]}, log)
    (folder / "cyclic_precision_results.json").write_text((folder / "results.json").read_text())
    for place in (folder / "tensorboard" / "cpt-0", folder):
        place.mkdir(parents=True, exist_ok=True)
        (place / "events.out.tfevents.1").write_bytes(b"")
    (folder / "note.csv").write_text("step,loss\n1,2\n")  # which somebody put there
    runs, unread = read_runs(tmp_path)
    assert [run.name for run in runs] == ["runs/cyclic-1/note.csv", "runs/cyclic-1:cpt-seed0"]
    assert unread == []


def test_copy_of_a_log_is_no_run_of_its_own(tmp_path: Path) -> None:
    log = "step,val_loss\n5,0.5\n"
    run_folder(tmp_path / "run", "ternary", {"networks": [ternary_record("a")]}, log, csv_log="logs/copy.csv")
    for place in ("logs", "other"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "copy.csv").write_text(log)
    assert [run.name for run in read_runs(tmp_path)[0]] == ["other/copy.csv", "run:a-seed0"]


ON_DIGITS = {"model": "mlp", "dataset": "digits", "seeds": 2, "log_interval": 2}
RECIPES: dict[str, dict[str, Any]] = {
    "cyclic": {"num_static_iterations": 3, "cyclic": {"cycle_length": 5}, **ON_DIGITS},
    "ternary": {"experiments": {"twn": {}, "float": {"quantizer": "none"}}, **ON_DIGITS},
    "joint": {"bitwidth_options": [2, 4], **ON_DIGITS},
    "compress": {
        "model_options": {"channels": 4, "latent_channels": 4}, "crop": 32, "batch_size": 2, "crops": 4,
        "coded_pictures": 1, "log_interval": 2, "lambdas": [0.01, 0.02],
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_real_run(recipe: str, tmp_path: Path) -> None:
    results = bitdial.run(recipe, **RECIPES[recipe], steps=6, run_dir=tmp_path / "run")
    runs, unread = read_runs(tmp_path)
    assert unread == []
    assert len(runs) == len(results.records) >= 2
    for record in results.records:
        (run,) = [run for run in runs if run.name == f"run:{record.key}"]
        assert (run.state, run.steps) == ("finished", record.steps_taken)
        assert run.config["seed"] == record.seed
        assert run.config["batch_size"] == results.config["batch_size"]
        assert run.metrics["learning_rate"] > 0  # of metrics.csv alone
        if recipe == "compress":
            assert run.config["lambda_value"] == record.lambda_value
            assert [run.metrics[name] for name in ("bpp", "psnr")] == pytest.approx([record.own.bpp, record.own.psnr])
        elif recipe == "ternary":
            assert run.metrics["test.accuracy"] == record.test.accuracy
        else:
            own = {f"accuracy_{score.bits:g}bit": score.accuracy for score in record.scores}
            assert own.items() <= run.metrics.items()
