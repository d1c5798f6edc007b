"""Every recipe holds data out, stops early by it, says so, and is taken up in mid-patience as if it never stopped."""

from __future__ import annotations

import csv
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import bitdial
from bitdial.cli import main
from bitdial.data import Fingerprint, dataset_from_tensors
from bitdial.errors import BitdialError
from bitdial.recipes import find_recipe
from bitdial.recipes.compress.options import CompressConfig
from bitdial.recipes.compress.work import work_of
from bitdial.recipes.cyclic.options import CyclicConfig
from bitdial.recipes.joint.options import JointConfig
from bitdial.training import RunFolder
from tests.data.sensors import six
from tests.recipes.ternary.tiny import differences, state_of, stopped_before

STOPS = "--early_stopping --early_stopping_patience 2 --early_stopping_min_delta 1e6 --log_interval 1"
"""The first evaluation is an improvement, all others are none."""
CYCLIC = (
    "--model mlp --batch_size 256 --steps 12 --num_static_iterations 8 --warmup_steps 2 --cyclic.cycle_length 5 "
    "--model_options.bit_widths 4 --static.test_configurations '{4bit: 4, down: progressive}'"
)
WORDS = {
    "cyclic": f"{CYCLIC} {STOPS} --eval_interval 2",
    "joint": "--model mlp --batch_size 512 --epochs 6 --warmup_steps 2 --bitwidth_options 4 32 --no_sensitivity "
    f"{STOPS}",
    "compress": "--model_options.channels 4 --model_options.latent_channels 4 --crop 32 --batch_size 2 --epochs 5 "
    f"--crops 2 --coded_pictures 1 {STOPS}",
    "ternary": f"--model mlp --batch_size 512 --epochs 6 --warmup_epochs 0 {STOPS}",
}
TOLD = {
    "cyclic": "stopped early at step 6 of 12, best at ",
    "joint": "stopped early at epoch 3 of 6, best at ",
    "compress": "stopped early at epoch 3 of 5, best at ",
    "ternary": "stopped early at epoch 3 of 6, best at ",
}


def train(recipe: str, words: str, run: Path) -> int:
    return main(["train", recipe, *shlex.split(words), "--run_dir", str(run)])


def resume(recipe: str, run: Path, *words: str) -> int:
    return main(["train", recipe, "--resume", str(run), *words])


def results_of(recipe: str, run: Path) -> Any:
    return find_recipe(recipe).results.load(run / "results.json")


def columns(run: Path) -> set[str]:
    with (run / "metrics.csv").open() as file:
        return {name for row in csv.DictReader(file) for name, cell in row.items() if cell}


def states(run: Path) -> dict[str, Any]:
    """The newest state of every arm; names sort as files were written."""
    newest: dict[str, Path] = {}
    for path in sorted((run / "checkpoints").rglob("*.pt")):
        if path.parent.name.startswith("set-aside"):
            continue
        series = path.name.partition("-seed")[0] if "-seed" in path.name else ""
        newest[f"{path.parent.name}/{series}"] = path
    return {name: state_of(path) for name, path in newest.items()}


SLOW = ("compress",)
"""Recipes whose runs take long; they stop as the others do, by the same engine."""


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in WORDS]
)
def stopped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A run that stopped early; the recipe and its folder."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    assert train(request.param, WORDS[request.param], run) == 0
    return request.param, run


def test_an_arm_that_stopped_early_says_so(stopped: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run = stopped
    results = results_of(recipe, run)
    first = next(record for record in results.records if "static" not in record.key and "matched" not in record.key)
    assert first.early_stop.told().startswith(TOLD[recipe])
    assert first.early_stop.at == {"epoch": 3, "step": first.steps_taken}[first.early_stop.unit]
    assert any(TOLD[recipe] in note for note in results.notes)
    assert TOLD[recipe] in (run / "report.html").read_text()
    config = RunFolder.open(run).load_config()
    assert config["validation_fraction"] == 0.1
    parts = Fingerprint.read(run / "data.json").parts
    assert set(parts) == {"train", "validation", "test"}
    names = [name for part in parts.values() if isinstance(part, dict) for name in part]
    assert len(set(names)) == len(names)
    assert "val_loss" in columns(run)
    assert "val_test_loss" not in columns(run)
    before = (run / "results.json").read_bytes()
    assert resume(recipe, run) == 0  # it is finished
    printed = capsys.readouterr().out
    assert "Report:" in printed
    assert f"{first.key if len(results.records) > 1 else 'Training'} {TOLD[recipe]}" in printed
    assert (run / "results.json").read_bytes() == before


def test_taken_up_in_mid_patience_it_is_the_run_that_was_never_stopped(
    stopped: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, whole = stopped
    run = tmp_path / "run"
    with stopped_before({"cyclic": 5, "joint": 5, "compress": 4, "ternary": 5}[recipe]):
        assert train(recipe, WORDS[recipe], run) == 130
    assert resume(recipe, run) == 0
    assert TOLD[recipe] in capsys.readouterr().err
    assert differences(states(whole), states(run)) == []
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_cyclic_arm_costs_what_it_took(tmp_path: Path) -> None:
    assert train("cyclic", f"{CYCLIC} --eval_interval 6", tmp_path / "whole") == 0
    assert {"val_test_loss", "val_accuracy"} <= columns(tmp_path / "whole")  # for the log: nothing is held out
    assert set(Fingerprint.read(tmp_path / "whole" / "data.json").parts) == {"train", "test"}
    assert train("cyclic", WORDS["cyclic"], tmp_path / "stopped") == 0
    whole, stopped = (
        {arm.name: arm for arm in results_of("cyclic", tmp_path / each).arms} for each in ("whole", "stopped")
    )
    assert all(arm.early_stop is None for arm in whole.values())
    assert {name: arm.iterations for name, arm in stopped.items()} == {
        "baseline_fp32": 6, "cpt": 6, "static_4bit": 6, "static_down": 8, "matched_cost": 5
    }  # fmt: skip
    assert stopped["static_down"].early_stop is None  # it steps down to its width
    assert stopped["cpt"].bitops == pytest.approx(whole["cpt"].bitops / 2, rel=0.05)
    # matched_cost has the budget that the cyclic arm really took
    assert stopped["matched_cost"].bitops == pytest.approx(stopped["cpt"].bitops, rel=0.2)
    notes = " ".join(results_of("cyclic", tmp_path / "stopped").notes)
    assert "matched_cost has at most the BitOps that the cyclic phase really took" in notes


def test_with_patience_raised_it_is_the_run_that_had_it_from_the_start(
    stopped: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, before = stopped
    whole, raised = tmp_path / "whole", Path(shutil.copytree(before, tmp_path / "raised", symlinks=True))
    assert resume(recipe, raised, "--early_stopping_patience", "3") == 0
    # arms that build on one that goes on begin anew
    assert ("static_4bit begins anew, as cpt goes on" in " ".join(capsys.readouterr().err.split())) == (
        recipe == "cyclic"
    )
    assert train(recipe, WORDS[recipe].replace("patience 2", "patience 3"), whole) == 0
    one, other = (
        {r.key: (r.early_stop, r.steps_taken) for r in results_of(recipe, run).records} for run in (raised, whole)
    )
    assert one == other
    assert any(stop is not None and stop.patience == 3 for stop, _ in one.values())
    assert differences(states(whole), states(raised)) == []
    assert sorted((raised / "metrics.csv").read_text().split()) == sorted((whole / "metrics.csv").read_text().split())


def test_no_pixel_of_the_photographs_is_in_two_parts() -> None:
    plain, work = (work_of(CompressConfig(validation_fraction=share)) for share in (0, 0.1))
    assert plain.validation is None
    assert work.validation is not None
    for number in range(2):
        assert torch.equal(torch.cat([work.train[number], work.validation[number]], 2), plain.train[number])
        assert torch.equal(work.test[number], plain.test[number])
    assert work.told().startswith("the left 346 columns")


def test_whole_pictures_of_a_folder_are_held_out(tmp_path: Path) -> None:
    for number in range(6):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / f"{number}.png")
    work = work_of(CompressConfig(data_path=tmp_path, early_stopping=True))
    assert work.validation is not None
    names = [*work.train.names, *work.validation.names, *work.test.names]
    assert sorted(names) == [f"{number}.png" for number in range(6)]
    before = work.identify()
    Image.new("RGB", (40, 40), (9, 0, 0)).save(tmp_path / "00.png")
    now = work_of(CompressConfig(data_path=tmp_path, early_stopping=True))
    assert now.divided_as(before, now.identify()).identify().parts == before.parts


def test_recordings_are_held_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITDIAL_DATA", str(tmp_path / "cache"))
    six(tmp_path / "data")
    words = CYCLIC.replace(
        "--model mlp --batch_size 256", "--batch_size 4 --dataset recordings --validation_fraction .3"
    )
    assert train("cyclic", f"{words} {STOPS} --eval_interval 2 --data_path {tmp_path / 'data'}", tmp_path / "run") == 0
    assert set(Fingerprint.read(tmp_path / "run" / "data.json").parts) == {"train", "validation", "test"}
    assert results_of("cyclic", tmp_path / "run").arms[1].early_stop.at == 6


@pytest.mark.parametrize("kind", [CyclicConfig, JointConfig, CompressConfig])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"early_stopping": True, "validation_fraction": 0}, "nothing is chosen by looking at test data"),
        ({"validation_fraction": 1}, "less than 1"),
        ({"validation_fraction": -0.1}, "greater than or equal to 0"),
        ({"early_stopping_patience": 0}, "greater than or equal to 1"),
        ({"early_stopping_min_delta": -1}, "greater than or equal to 0"),
    ],
)
def test_bad_options(kind: type, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        kind(**given)


def test_what_is_filled_in() -> None:
    assert CyclicConfig().validation_fraction == CompressConfig().validation_fraction == 0
    assert CyclicConfig(eval_interval=5).validation_fraction == 0
    config = CyclicConfig(early_stopping=True)
    assert (config.validation_fraction, config.eval_interval) == (0.1, config.cyclic.cycle_length)
    assert CyclicConfig(early_stopping=True, eval_interval=7).eval_interval == 7


@pytest.mark.parametrize("recipe", ["cyclic", "joint"])
def test_batches_of_a_script_cannot_be_held_out(recipe: str, tmp_path: Path) -> None:
    x, y = torch.randn(32, 1, 8, 8), torch.arange(32) % 2
    how: dict[str, Any] = {"steps": 2, "batch_size": 8, "early_stopping": True, "run_dir": tmp_path / "run"}
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    with pytest.raises(BitdialError, match="got batches of a script; give an ImageDataset"):
        bitdial.run(recipe, model=model, data=((x, y), (x, y)), **how)
    assert not (tmp_path / "run").exists()
    data = dataset_from_tensors("mine", (x, y), (x, y))
    if recipe == "joint":
        assert bitdial.run(recipe, model=model, data=data, **how).records


def test_a_single_picture_cannot_be_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40)).save(tmp_path / name / "one.png")
    words = f"--early_stopping --data_path {tmp_path / 'train'} --test_path {tmp_path / 'test'}"
    assert train("compress", words, tmp_path / "run") == 2
    assert "to train on and to hold out, got 1; add some, or leave validation_fraction" in capsys.readouterr().err
