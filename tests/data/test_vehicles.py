"""The generated vehicles: the public layout, the same from the same seed, neither sensor knows everything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitdial.data import SignalOptions, load_recordings, vehicles, write_vehicles
from bitdial.data.segments import recording_of
from bitdial.data.vehicles import VEHICLES, passing
from bitdial.models import SIGNAL_NETWORKS, build_signal_model

FEW = {"train": 1, "test": 1}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vehicles")
    write_vehicles(folder, recordings=FEW)
    return folder


def test_files_are_of_the_public_layout(written: Path) -> None:
    lines = (written / "train_index.txt").read_text().split()
    assert len(lines) == 70
    segment = torch.load(written / lines[0], weights_only=True)
    assert segment.keys() == {"label", "flag", "data"}
    assert {name: value.ndim for name, value in segment["label"].items()} == {
        "vehicle_type": 0, "distance": 0, "speed": 0
    }  # fmt: skip
    assert segment["data"]["road"]["audio"].shape == (1, 10, 1600)
    assert segment["data"]["road"]["seismic"].shape == (1, 10, 20)
    assert segment["data"]["road"]["audio"].dtype == torch.float32
    # No view of the whole recording.
    assert (written / lines[0]).stat().st_size < 4 * 16_020 + 4096


def test_parts_share_no_recording_and_classes_have_names(written: Path) -> None:
    data = load_recordings("vehicles", written)
    parts = [{recording_of(Path(name)) for name, _ in part.files or ()} for part in (data.train, data.test)]
    assert not parts[0] & parts[1]
    assert data.class_names == tuple(VEHICLES)
    assert data.notes == ()
    assert torch.bincount(data.train.labels).tolist() == [10] * 7
    assert not bool(data.train.segments.present.all())  # some are missing
    assert bool(data.train.segments.present.any(1).all())


def test_the_same_seed_gives_the_same_files(written: Path, tmp_path: Path) -> None:
    for name, seed in (("again", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        write_vehicles(tmp_path / name, seed, FEW)
    first, again, other = (
        [mark for _, mark in load_recordings("recordings", folder).train.files or ()]
        for folder in (written, tmp_path / "again", tmp_path / "other")
    )
    assert first == again
    assert not set(first) & set(other)


def spectrum(signal: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    return np.fft.rfftfreq(len(signal), 1 / rate), np.abs(np.fft.rfft(signal)) ** 2


def share(signal: np.ndarray, rate: float, low: float, high: float, floor: float = 0) -> float:
    frequencies, power = spectrum(signal, rate)
    inside = (frequencies >= low) & (frequencies < high)
    return float(power[inside].sum() / power[frequencies >= floor].sum())


def test_the_microphone_tells_engines_and_the_geophone_chassis() -> None:
    heard = {name: [passing(name, np.random.default_rng(seed)) for seed in range(6)] for name in VEHICLES}
    high = {name: np.mean([share(p.audio, 8000, 2500, 3300, 200) for p in each]) for name, each in heard.items()}
    assert min(high["electric-car"], high["electric-bus"]) > 1.5 * max(
        value for name, value in high.items() if "electric" not in name
    )
    ground = {name: np.mean([share(p.seismic, 100, 11, 50) for p in each]) for name, each in heard.items()}
    for light, heavy in (("car", "van"), ("jeep", "truck"), ("electric-car", "electric-bus")):
        assert ground[light] > ground[heavy] + 0.2


def test_what_passes_is_loudest_where_it_is_nearest() -> None:
    found = passing("carrier", np.random.default_rng(3))
    levels = found.seismic.reshape(10, -1).std(1)
    assert abs(int(levels.argmax()) - int(found.distance.argmin())) <= 2
    assert levels.max() > 1.5 * levels.min()
    assert np.abs(found.audio).max() < 1


def test_it_is_written_once_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITDIAL_DATA", str(tmp_path))
    written = []

    def few(folder: Path) -> None:
        written.append(folder)
        write_vehicles(folder, recordings=FEW)

    monkeypatch.setattr(vehicles, "write_vehicles", few)
    first, second = load_recordings(), load_recordings("Vehicles")
    assert len(written) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["vehicles-1"]
    assert first.train.files == second.train.files
    assert (tmp_path / "vehicles-1").stat().st_mode & 0o777 == 0o755


def test_another_process_may_be_quicker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITDIAL_DATA", str(tmp_path))

    def slow(folder: Path) -> None:
        write_vehicles(folder, recordings=FEW)
        (tmp_path / "vehicles-1").mkdir()
        write_vehicles(tmp_path / "vehicles-1", recordings=FEW)

    monkeypatch.setattr(vehicles, "write_vehicles", slow)
    assert len(load_recordings().train) == 70
    assert [path.name for path in tmp_path.iterdir()] == ["vehicles-1"]


def test_the_page_runs_and_its_counts_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITDIAL_DATA", str(tmp_path))
    monkeypatch.setattr(vehicles, "write_vehicles", lambda folder: write_vehicles(folder, recordings=FEW))
    page = (Path(__file__).parents[2] / "docs" / "signals.md").read_text()
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(example, names)
    assert {name: list(x.shape[1:]) for name, x in names["x"].items()} == {
        "audio": [2, 10, 801], "seismic": [2, 10, 11], "present": [2]
    }  # fmt: skip
    for name in SIGNAL_NETWORKS:
        model = build_signal_model(name, num_classes=7, shapes={"audio": (2, 10, 1600), "seismic": (2, 10, 20)})
        assert f"{sum(each.numel() for each in model.parameters()):,}" in page
    assert all(f"--signals.{name}" in page for name in SignalOptions.model_fields)
    assert all(f"`{name}`" in page for name in VEHICLES)
