"""Every recipe trains on recordings, goes on exactly, is measured again, loaded, and exported."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import bitdial
from bitdial.cli import main
from bitdial.data import Fingerprint, SignalOptions, load_recordings, make_loader
from bitdial.errors import BitdialError
from bitdial.models import SignalNetwork, build_signal_model
from bitdial.recipes.joint.options import JointConfig
from bitdial.recipes.recording_work import RecordingWork
from bitdial.recipes.saved_model import read_saved
from bitdial.recipes.ternary.options import TernaryConfig
from bitdial.recipes.work import work_of
from tests.data.sensors import change, six, write_set

LENGTH = {
    "joint": "--steps 4 --warmup_steps 0 --bitwidth_options 4 32",
    "cyclic": "--steps 4 --num_static_iterations 2 --warmup_steps 0 --cyclic.cycle_length 5 "
    "--model_options.bit_widths 4 8 --static.test_configurations {4bit:4}",
    "ternary": "--epochs 2 --keep_best 1 --validation_fraction .3",
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITDIAL_DATA", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, one segment without the geophone in each recording."""
    six(tmp_path / "data", missing={"seismic": [1]})
    return tmp_path / "data"


def train(recipe: str, *words: object, length: str | None = None) -> int:
    own = (LENGTH[recipe] if length is None else length).split()
    own = [word.replace("{4bit:4}", "{4bit: 4}") for word in own]
    return main(["train", recipe, *own, "--batch_size", "4", *map(str, words)])


def begin(recipe: str, folder: Path, run: Path, *words: object) -> int:
    return train(recipe, "--dataset", "recordings", "--data_path", folder, "--run_dir", run, *words)


@pytest.mark.parametrize("recipe", LENGTH)
def test_every_recipe_trains_the_small_network(recipe: str, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert begin(recipe, folder, run) == 0
    results = json.loads((run / "results.json").read_text())
    assert results["config"]["model"] == "signal_cnn"
    assert any("6 test segments" in note for note in results["notes"])
    model = bitdial.load(run)
    assert isinstance(model, SignalNetwork)
    data = load_recordings("recordings", folder)
    x, _ = next(iter(make_loader(data.test, 99, train=False)))
    assert model(x).shape == (6, 2)
    described = next(read_saved(file)[0] for file in (*run.glob("*best*.pt"), *run.glob("models/*.pt")))
    assert described.signals is not None
    assert described.signals.shapes == data.shapes
    assert described.mean == list(data.mean)
    assert {"encoders.0.conv1", "encoders.1.conv1"} <= set(described.skipped_layers)
    assert Fingerprint.read(run / "data.json").shape == list(data.shape)


def test_evaluate_gives_what_the_run_measured(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert begin("joint", folder, run) == 0
    scores = json.loads((run / "results.json").read_text())["networks"][0]["scores"]
    capsys.readouterr()
    assert main(["evaluate", str(run), "--bits", "4", "32"]) == 0
    told = capsys.readouterr().out
    assert "on the 6 test segments of recordings" in told
    for score in scores:
        assert f"{score['loss']:.4f}" in told
    shutil.move(folder, tmp_path / "moved")
    assert main(["evaluate", str(run), "--bits", "4", "--data_path", str(tmp_path / "moved")]) == 0


def losses(run: Path) -> list[str]:
    with (run / "metrics.csv").open() as file:
        return [row["train_loss"] for row in csv.DictReader(file)]


def test_a_longer_run_goes_on_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    words = ("--log_interval", 1, "--scheduler", "none", "--warmup_epochs", 0)
    for name, epochs in (("whole", 4), ("longer", 2)):
        how = ("--dataset", "recordings", "--data_path", folder, "--run_dir", tmp_path / name)
        assert train("ternary", *how, *words, length=f"--epochs {epochs}") == 0
    assert main(["train", "ternary", "--resume", str(tmp_path / "longer"), "--epochs", "4"]) == 0
    assert losses(tmp_path / "longer") == losses(tmp_path / "whole")
    states = [
        torch.load(next((tmp_path / name).glob("models/*.pt")), weights_only=True)["model_state_dict"]
        for name in ("whole", "longer")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_more_seeds_use_the_same_data_and_changed_data_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert begin("joint", folder, run) == 0
    assert main(["train", "joint", "--resume", str(run), "--seeds", "2"]) == 0
    change(folder / "segments" / "car-train_road_0.pt", label=torch.tensor(1))
    (folder / "segments" / "van-test_road_2.pt").unlink()
    index = folder / "test_index.txt"
    index.write_text(index.read_text().replace("segments/van-test_road_2.pt\n", ""))
    capsys.readouterr()
    assert main(["train", "joint", "--resume", str(run), "--seeds", "3"]) == 2
    told = capsys.readouterr().err
    assert "1 file removed (segments/van-test_road_2.pt)" in told
    assert "1 file changed (segments/car-train_road_0.pt)" in told
    assert "1 file labelled anew (segments/car-train_road_0.pt)" in told
    assert main(["train", "joint", "--resume", str(run), "--seeds", "3", "--accept_changed_data"]) == 0
    assert main(["train", "joint", "--resume", str(run), "--signals.transform", "rfft"]) == 2
    assert "signals.transform must stay fft" in capsys.readouterr().err


def test_a_division_is_kept_when_recordings_are_added(tmp_path: Path) -> None:
    kinds = {f"{kind}{number}": label for label, kind in enumerate(("car", "van")) for number in range(5)}
    write_set(tmp_path / "data", {"train": kinds})
    run = tmp_path / "run"
    assert begin("joint", tmp_path / "data", run) == 0
    before = Fingerprint.read(run / "data.json")
    write_set(tmp_path / "more", {"train": {"car9": 0, "van9": 1, "apart7": 1}})
    for file in (tmp_path / "more" / "segments").iterdir():
        shutil.copy(file, tmp_path / "data" / "segments")
    index = tmp_path / "data" / "train_index.txt"
    index.write_text((tmp_path / "more" / "train_index.txt").read_text() + index.read_text())
    assert main(["train", "joint", "--resume", str(run), "--seeds", "2", "--accept_changed_data"]) == 0
    after = Fingerprint.read(run / "data.json")
    assert (after.parts, after.mean, after.std) == (before.parts, before.mean, before.std)
    assert len(after.left_out) == 9


def test_segments_of_another_shape_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert begin("joint", folder, run) == 0
    shutil.rmtree(folder)
    six(folder, window=0.5)
    assert main(["train", "joint", "--resume", str(run), "--seeds", "2", "--accept_changed_data"]) == 2
    assert "expected recordings of 2x5x32x2x5x4, which the network was built for, got" in capsys.readouterr().err


def test_ternary_chooses_by_the_validation_part_and_exports(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert begin("ternary", folder, run) == 0
    assert "6 training segments held out" in json.loads((run / "results.json").read_text())["notes"][0]
    assert main(["export", str(run)]) == 0
    assert "6 test segments compared" in " ".join(capsys.readouterr().out.split())
    shutil.move(folder, tmp_path / "moved")
    assert main(["export", str(run)]) == 0
    assert "16 segments of noise" in " ".join(capsys.readouterr().out.split())
    packed = bitdial.load(next(run.glob("*.safetensors")))
    assert isinstance(packed, SignalNetwork)


def test_without_a_validation_part_whole_recordings_are_held_out(tmp_path: Path) -> None:
    kinds = {f"{kind}{number}": label for label, kind in enumerate(("car", "van")) for number in range(6)}
    write_set(tmp_path, {"train": kinds, "test": {"car-test": 0, "van-test": 1}})
    options = TernaryConfig(dataset="recordings", data_path=tmp_path, validation_fraction=0.3)
    work = work_of(options)
    assert isinstance(work, RecordingWork)
    assert work.validation is not None
    chosen, trained = ({name.split("_")[0] for name, _ in part.files or ()} for part in (work.validation, work.train))
    assert len(chosen) == 4
    assert not chosen & trained


def test_a_teacher_must_hear_the_same(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert begin("ternary", folder, teacher, "--quantizer", "none") == 0
    assert begin("ternary", folder, student, "--teacher", teacher) == 0
    assert begin("ternary", folder, tmp_path / "other", "--teacher", teacher, "--signals.modalities", "audio") == 2
    told = capsys.readouterr().err
    assert "teacher and student must see the same segments" in told
    assert "audio 2x5x32, seismic 2x5x4 by fft" in told


@pytest.mark.slow
def test_options_of_signals_choose(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("--signals.modalities", "audio", "--signals.transform", "rfft", "--model", "resnet18")
    assert begin("joint", folder, run, *words, "--optimizer", "adamw", "--max_grad_norm", 5) == 0
    described = read_saved(next(run.glob("models/*.pt")))[0]
    assert described.model == "resnet18"
    assert described.signals is not None
    assert described.signals.shapes == {"audio": (2, 5, 17)}
    assert json.loads((run / "results.json").read_text())["config"]["lr"] == 1e-3


@pytest.mark.parametrize(
    ("recipe", "words", "told"),
    [
        (
            "joint",
            "--model resnet20 --dataset vehicles",
            "network for recordings (signal_cnn, resnet18), got 'resnet20'",
        ),
        ("cyclic", "--model vgg_small --dataset vehicles", "network for recordings (signal_cnn, resnet18)"),
        ("ternary", "--model timm/x --dataset vehicles", "network for recordings (signal_cnn, resnet18)"),
        (
            "joint",
            "--model signal_cnn",
            "signal_cnn is a network for recordings, such as --dataset vehicles, got images",
        ),
        ("joint", "--signals.modalities audio", "signals.* are for recordings that are read by name"),
        ("joint", "--dataset recordings", "needs data_path"),
        ("joint", "--dataset vehicle", "unknown dataset 'vehicle'"),
        ("joint", "--dataset recordings --data_path DATA --signals.modalities adio", "did you mean 'audio'?"),
        ("joint", "--dataset recordings --data_path DATA --signals.transform dct", "signals.transform"),
        ("ternary", "--dataset recordings --data_path DATA --cutmix", "cutmix is an augmentation of images"),
        ("joint", "--dataset recordings --data_path DATA/none", "expected a folder or an index file at"),
    ],
)
def test_what_is_refused_leaves_nothing(
    recipe: str, words: str, told: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(recipe, *words.replace("DATA", str(folder)).split(), "--run_dir", run) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") <= 2
    assert not run.exists()
    assert not (tmp_path / "cache" / "vehicles-1").exists()


def test_the_default_network_is_written_down_and_another_is_kept() -> None:
    assert JointConfig(dataset="vehicles").model == "signal_cnn"
    assert JointConfig(dataset="Vehicles").model == "signal_cnn"
    assert JointConfig(dataset="vehicles", model="resnet18").model == "resnet18"
    assert JointConfig().model == "resnet20"


def test_shared_recordings_are_told_in_the_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = folder / "test_index.txt"
    index.write_text(index.read_text() + "segments/car-train_road_0.pt\n")
    assert begin("joint", folder, tmp_path / "run") == 0
    told = "WARNING: the parts train and test hold segments of the same recordings (car-train)"
    assert told in " ".join(capsys.readouterr().err.split())
    assert any(told in note for note in json.loads((tmp_path / "run" / "results.json").read_text())["notes"])


def test_recordings_and_networks_of_a_script(folder: Path, tmp_path: Path) -> None:
    data = load_recordings("recordings", folder, SignalOptions(transform="none"))
    how: dict[str, Any] = {"steps": 2, "warmup_steps": 0, "batch_size": 4, "bitwidth_options": [4, 32]}
    bitdial.run("joint", data=data, run_dir=tmp_path / "a", **how)
    assert isinstance(bitdial.load(tmp_path / "a"), SignalNetwork)
    own = build_signal_model("signal_cnn", num_classes=2, shapes=data.shapes, width=4)
    bitdial.run("joint", model=own, data=data, run_dir=tmp_path / "b", **how)
    with pytest.raises(BitdialError, match="brought by a script"):
        bitdial.load(tmp_path / "b")
    bitdial.run("ternary", data=data, run_dir=tmp_path / "d", epochs=1, batch_size=4)
    with pytest.raises(BitdialError, match="network for recordings"):
        bitdial.run("joint", model="resnet20", data=data, run_dir=tmp_path / "c", **how)
