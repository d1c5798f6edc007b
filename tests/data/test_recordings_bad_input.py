"""What is wrong with recordings is said in one sentence that names the file, and nothing half written is left."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitdial.cli import main
from bitdial.data import SignalOptions, load_dataset, load_recordings, vehicles, write_recording
from bitdial.data.segments import cut
from bitdial.errors import BitdialError
from tests.data.sensors import change, six

CAR = "segments/car-train_road_1.pt"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BITDIAL_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(folder: Path | None, name: str = "recordings", **options: Any) -> str:
    with pytest.raises(BitdialError) as caught:
        load_recordings(name, folder, SignalOptions.model_validate(options))
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


class Custom:
    """What is no tensor."""


def data_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)["data"]["road"]
    return found


def with_data(**values: Any) -> Callable[[Path], None]:
    return lambda path: change(path, data={"road": {**data_of(path), **values}})


def poisoned(path: Path) -> None:
    audio = data_of(path)["audio"]
    audio[0, 2, 3] = torch.nan
    with_data(audio=audio)(path)


def without_audio(path: Path) -> None:
    change(path, data={"road": {"seismic": data_of(path)["seismic"]}}, flag={"road": {"seismic": True}})


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def as_array(path: Path) -> None:
    path.write_bytes(pickle.dumps([1, 2]))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (poisoned, r"audio of .*car-train_road_1\.pt holds 1 values that are NaN .*, the first at \[0, 2, 3\]"),
        (with_data(audio=torch.full((1, 5, 32), torch.inf)), "holds 160 values that are NaN or infinite"),
        (with_data(audio=torch.full((1, 5, 32), 3e38)), "spectrum of audio in .* beyond float32"),
        (with_data(audio=torch.zeros(1, 5, 16)), r"one rate .*, \[1, 5, 32\] as in .*_0\.pt, got \[1, 5, 16\] in"),
        (with_data(audio=torch.zeros(1, 4, 32)), "of one rate and length"),
        (with_data(audio=torch.zeros(5, 32)), r"\[channels, intervals, samples\], got \[5, 32\]"),
        (with_data(audio=torch.zeros(1, 5, 0)), r"got \[1, 5, 0\]"),
        (with_data(audio=torch.zeros(1, 5, 32, dtype=torch.complex64)), "as a tensor of real .*, got torch.complex64"),
        (with_data(audio=[1.0]), "as a tensor of real numbers, got list"),
        (without_audio, r"car-train_road_1\.pt has no audio, expected audio, seismic; set its flag to False"),
        (lambda path: torch.save(Custom(), path), "damaged, or holds Python objects, which are not opened"),
        (lambda path: path.write_text("hello"), r"cannot read .*_1\.pt, which is damaged or no file of torch.save"),
        (lambda path: path.write_bytes(b""), r"cannot read .*car-train_road_1\.pt"),
        (cut_short, r"cannot read .*car-train_road_1\.pt, which is damaged"),
        (as_array, "damaged, or holds|expected label, flag and data"),
        (lambda path: torch.save([1, 2], path), "expected label, flag and data in .*, got list"),
        (lambda path: torch.save({"x": 1}, path), "got the keys x"),
        (lambda path: change(path, data=torch.zeros(2)), r"expected data of .* as \{location"),
        (lambda path: change(path, flag={"road": True}), r"expected flag of .* as \{location"),
        (lambda path: change(path, label=torch.tensor(-1)), "expected a class from 0 up in .*, got -1"),
        (lambda path: change(path, label=torch.tensor(1.5)), "a class as a whole number from 0 in .*, got 1.5"),
        (lambda path: change(path, label=torch.tensor(torch.nan)), "a class as a whole number from 0 in .*, got nan"),
        (lambda path: change(path, label=torch.tensor([0, 1])), r"a class as a whole number from 0 in .*, got tensor"),
        (lambda path: change(path, label="car"), "a class as a whole number from 0 in .*, got 'car'"),
        (lambda path: change(path, label=True), "a class as a whole number from 0 in .*, got True"),
        (lambda path: change(path, label=torch.tensor(20240101)), "expected a class in .*, got 20240101; number"),
        (lambda path: change(path, label=2**70), "expected a class from 0 up in"),
        (lambda path: change(path, label={"speed": 3}), "expected vehicle_type in the label of .*, got speed"),
        (os.remove, r"train_index.txt, line 2: expected the file of a segment at .*_1\.pt, got nothing there"),
        (lambda path: (path.unlink(), path.mkdir()), r"line 2: expected the file of a segment at .*, got a folder"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named(tmp_path: Path, spoil: Callable[[Path], object], told: str) -> None:
    six(tmp_path)
    spoil(tmp_path / CAR)
    text = refused(tmp_path)
    assert "car-train_road_1.pt" in text
    with pytest.raises(BitdialError, match=told):
        load_recordings("recordings", tmp_path)
    # What is bad is not remembered: put right, it is read.
    there = {each.name for each in tmp_path.iterdir()} - {"segments", "cache"}
    assert there <= {*(f"{part}_index.txt" for part in ("train", "val", "test")), ".bitdial-labels-fft.cache"}


def test_a_label_that_was_not_trained_on_is_out_of_range(tmp_path: Path) -> None:
    paths = six(tmp_path)
    change(paths["test"][4], label=torch.tensor(2))
    assert "expected a class from 0 to 1, which the training segments have, got 2 in" in refused(tmp_path)
    assert "van-test_road_1.pt (test)" in refused(tmp_path)
    (tmp_path / "class_names.txt").write_text("car\nvan\n")
    assert "class_names.txt names 2, got 2 in" in refused(tmp_path)


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ("", r"train_index\.txt is empty"),
        ("\n \n", r"train_index\.txt is empty"),
        (b"\xff\xfe\x00", r"train_index\.txt must be text with a path a line"),
        ("segments", "line 1: expected the file of a segment at .*, got a folder"),
        ("segments/../train_index.txt", r"expected a segment named FOLDER_LOCATION_ID\.pt, got .*train_index\.txt"),
    ],
)
def test_a_bad_index_is_named(tmp_path: Path, index: str | bytes, told: str) -> None:
    six(tmp_path)
    (tmp_path / "train_index.txt").write_bytes(index.encode() if isinstance(index, str) else index)
    with pytest.raises(BitdialError, match=told):
        load_recordings("recordings", tmp_path)


@pytest.mark.parametrize("name", ["car.pt", "car_1.pt", "_road_1.pt", "car_road_.pt", "car_road_1.pth"])
def test_a_file_named_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    six(tmp_path)
    (tmp_path / CAR).rename(tmp_path / name)
    (tmp_path / "train_index.txt").write_text(f"{name}\n")
    assert f"expected a segment named FOLDER_LOCATION_ID.pt, got {tmp_path / name}" in refused(tmp_path)


def test_indices_that_are_not_there(tmp_path: Path) -> None:
    six(tmp_path)
    assert "no folder" in refused(tmp_path / "nowhere")
    (tmp_path / "train_index.txt").rename(tmp_path / "other.txt")
    assert f"no train_index.txt in {tmp_path}; it has val_index.txt, test_index.txt" in refused(tmp_path)
    (tmp_path / "train_index.txt").mkdir()
    assert "expected a file with a path a line at" in refused(tmp_path)
    assert "no train_index.txt in" in refused(tmp_path / "segments")
    assert "expected a segment named FOLDER_LOCATION_ID.pt" not in refused(tmp_path / "segments")
    assert "needs data_path" in refused(None)
    assert "did you mean 'vehicles'?" in refused(tmp_path, "vehicle")


def test_images_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BitdialError, match=r"expected a dataset of images, got 'vehicles', .* call load_recordings"):
        load_dataset("vehicles")
    assert main(["recommend", "--dataset", "vehicles", "--model", "resnet18"]) == 2
    assert "expected a data set of images, got 'vehicles'" in capsys.readouterr().err


def test_modalities_that_are_not_there(tmp_path: Path) -> None:
    six(tmp_path, missing={"seismic": [0, 1, 2]})
    assert "modalities must be of audio, seismic, got 'adio'; did you mean 'audio'?" in refused(
        tmp_path, modalities=["adio"]
    )
    assert "no segment has seismic, whose flag is False in all" in refused(tmp_path)
    assert load_recordings("recordings", tmp_path, SignalOptions(modalities=["audio"])).shapes.keys() == {"audio"}


def test_a_modality_that_is_only_tested_on(tmp_path: Path) -> None:
    paths = six(tmp_path)
    for path in paths["train"]:
        change(path, flag={"road": {"audio": True, "seismic": False}})
    assert f"no training segment of {tmp_path} has seismic" in refused(tmp_path)
    assert f"no segment of the part train of {tmp_path} has any of seismic" in refused(tmp_path, modalities=["seismic"])


def test_too_few_recordings_to_hold_one_out(tmp_path: Path) -> None:
    six(tmp_path)
    for part in ("val", "test"):
        (tmp_path / f"{part}_index.txt").unlink()
    text = refused(tmp_path)
    assert "expected several recordings of a class" in text
    assert "got 2 recordings (car-train, van-train)" in text
    assert "--signals.split_by segment" in text


@pytest.mark.parametrize(
    ("signal", "how", "told"),
    [
        (
            torch.zeros(1, 100),
            {"window": 11},
            "window must not be longer than the recording, got 11 s and 10 s of signal",
        ),
        (
            torch.zeros(1, 100),
            {"window": 1.01},
            r"whole number of samples in each of its intervals, got 1.01 s at 10 Hz",
        ),
        (torch.zeros(1, 100), {"window": 0}, "whole number of samples"),
        (torch.zeros(1, 100), {"intervals": 0}, "whole number of samples"),
        (torch.zeros(1, 100), {"window": 1, "intervals": 20}, "whole number of samples"),
        (torch.tensor([[1.0, torch.nan]]), {}, r"signal must be finite, got nan at \[0, 1\]"),
        (torch.zeros(100), {}, r"expected signal as \[channels, samples\], got \[100\]"),
    ],
)
def test_what_cannot_be_cut(signal: torch.Tensor, how: dict[str, Any], told: str) -> None:
    with pytest.raises(BitdialError, match=told):
        cut(signal, 10, **how)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"signals": {"a": (torch.zeros(1, 40), 10), "b": (torch.zeros(1, 40), 5)}},
            "one length in car, got a 4 s, b 8 s",
        ),
        ({"signals": {}}, "at least one signal"),
        ({"labels": [1, 2, 3]}, "a label for each of the 2 segments of car, got 3"),
        ({"location": "by_road"}, "must not hold '_'"),
        ({"recording": ""}, "FOLDER_LOCATION_ID"),
        ({"window": 9}, "longer than the recording, got 9 s and 4 s of a of car"),
    ],
)
def test_nothing_is_written_of_a_recording_that_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    good: dict[str, Any] = {
        "recording": "car", "location": "road", "signals": {"a": (torch.zeros(1, 40), 10)}, "labels": 1, "intervals": 2
    }  # fmt: skip
    with pytest.raises(BitdialError, match=told):
        write_recording(tmp_path, **{**good, **change})
    assert not list(tmp_path.iterdir())
    assert len(write_recording(tmp_path, **good)) == 2


def test_generated_recordings_are_whole_or_not_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(folder: Path) -> None:
        (folder / "segments").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(vehicles, "write_vehicles", stopped)
    with pytest.raises(KeyboardInterrupt):
        load_recordings()
    assert not list(cache.iterdir())
    cache.rmdir()
    cache.write_text("no folder")
    assert "expected to write the recordings of vehicles to" in refused(None, "vehicles")
