"""Recordings in the public layout are read as they are, divided without leaks, and known at the second start."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from bitdial.data import RecordingDataset, SignalOptions, label_cache, load_recordings, make_loader, recordings
from bitdial.data.segments import cut, read_segment, recording_of, transformed
from bitdial.errors import BitdialError
from tests.data.sensors import BODY, TINY, VEHICLES, change, six, write_set


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BITDIAL_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(folder: Path, memory_limit: int = 2 << 30, **options: object) -> RecordingDataset:
    return load_recordings("recordings", folder, SignalOptions.model_validate(options), memory_limit=memory_limit)


def names(data: RecordingDataset) -> dict[str, list[str]]:
    parts = {"train": data.train, "val": data.validation, "test": data.test}
    return {n: [name for name, _ in part.files or ()] for n, part in parts.items() if part is not None}


@pytest.mark.parametrize(
    ("transform", "audio", "seismic"),
    [
        ("none", (1, 10, 1600), (1, 10, 20)),
        ("fft", (2, 10, 1600), (2, 10, 20)),
        ("rfft", (2, 10, 801), (2, 10, 11)),
    ],
)
def test_shapes_of_the_public_set_of_vehicles(
    tmp_path: Path, transform: str, audio: tuple[int, ...], seismic: tuple[int, ...]
) -> None:
    parts = {part: {f"{kind}-{part}": kind for kind in range(7)} for part in ("train", "val", "test")}
    paths = write_set(tmp_path, parts, VEHICLES, segments=2, window=2.0, intervals=10)
    stored = torch.load(paths["train"][0], weights_only=True)
    assert stored["data"]["road"]["audio"].shape == (1, 10, 1600)
    assert stored["data"]["road"]["seismic"].shape == (1, 10, 20)
    data = load(tmp_path, transform=transform)
    assert data.shapes == {"audio": audio, "seismic": seismic}
    assert data.num_classes == 7
    x, y = next(iter(make_loader(data.train, 8, train=True)))
    assert {name: tuple(each.shape) for name, each in x.items()} == {
        "audio": (8, *audio), "seismic": (8, *seismic), "present": (8, 2)
    }  # fmt: skip
    assert y.shape == (8,)


def test_shapes_of_the_second_public_set(tmp_path: Path) -> None:
    parts = {part: {f"{kind}-{part}": kind for kind in range(10)} for part in ("train", "test")}
    write_set(tmp_path, parts, BODY, segments=2, window=7.0, intervals=7, mapping=False)
    assert load(tmp_path, transform="none").shapes == {"motion": (6, 7, 256), "orientation": (4, 7, 256)}
    data = load(tmp_path)
    assert data.shapes == {"motion": (12, 7, 256), "orientation": (8, 7, 256)}
    assert data.num_classes == 10
    assert data.validation is None


def test_the_transform_is_the_spectrum_of_each_interval() -> None:
    x = torch.randn(3, 2, 4, 20)
    spectrum = torch.fft.fft(x.double())
    expected = torch.stack([spectrum.real[:, 0], spectrum.imag[:, 0], spectrum.real[:, 1], spectrum.imag[:, 1]], 1)
    torch.testing.assert_close(transformed(x, "fft"), expected.float())
    torch.testing.assert_close(transformed(x, "rfft"), transformed(x, "fft")[..., :11])
    assert transformed(x, "none") is x


@pytest.mark.parametrize("transform", ["fft", "rfft", "none"])
def test_the_training_part_lies_in_0_to_1_and_nothing_else_was_looked_at(tmp_path: Path, transform: str) -> None:
    paths = six(tmp_path)
    for path in paths["test"]:
        loud = {"road": {name: 9 * x for name, x in torch.load(path, weights_only=True)["data"]["road"].items()}}
        change(path, data=loud)
    data = load(tmp_path, transform=transform)
    (train,) = list(make_loader(data.train, 99, train=True, augment="none"))
    (test,) = list(make_loader(data.test, 99, train=False))
    for name in TINY:
        lows, highs = train[0][name].amin((0, 2, 3)), train[0][name].amax((0, 2, 3))
        torch.testing.assert_close(lows, torch.zeros_like(lows), atol=1e-6, rtol=0)
        torch.testing.assert_close(highs, torch.ones_like(highs))
        assert float(test[0][name].max()) > 1.5


def test_labels_are_numbers_or_mappings(tmp_path: Path) -> None:
    six(tmp_path / "mapping")
    six(tmp_path / "plain", mapping=False)
    first, second = load(tmp_path / "mapping"), load(tmp_path / "plain")
    assert first.train.labels.tolist() == second.train.labels.tolist() == [0] * 3 + [1] * 3
    assert first.class_names == ("0", "1")
    (tmp_path / "plain" / "class_names.txt").write_text("car\nvan\nbus\n")
    data = load(tmp_path / "plain")
    assert data.class_names == ("car", "van", "bus")
    assert "Classes without a segment to train on: bus (1 of 3)." in data.notes


def test_a_missing_modality_is_told_apart_from_silence(tmp_path: Path) -> None:
    paths = six(tmp_path, missing={"seismic": [1]})
    bad = torch.load(paths["train"][1], weights_only=True)
    bad["data"]["road"]["seismic"] = torch.full((1, 1, 1), torch.nan)  # nobody looks at it
    torch.save(bad, paths["train"][1])
    data = load(tmp_path)
    x, _ = next(iter(make_loader(data.train, 99, train=False)))
    assert x["present"].tolist() == [[True, True], [True, False], [True, True]] * 2
    assert bool(x["seismic"].isfinite().all())
    alone = load(tmp_path, modalities=["seismic"])
    assert len(alone.train) == 4
    assert "6 segments without any of seismic were left out." in alone.notes


def test_absolute_paths_and_blank_lines(tmp_path: Path) -> None:
    paths = six(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for part, own in paths.items():
        (tmp_path / "b" / f"{part}_index.txt").write_text("\n" + "\r\n".join(map(str, own)) + "\n\n")
    assert load(tmp_path / "b").train.labels.tolist() == load(tmp_path / "a").train.labels.tolist()


def test_several_locations_in_one_file_are_modalities_of_their_own(tmp_path: Path) -> None:
    paths = six(tmp_path)
    for own in paths.values():
        for path in own:
            one = torch.load(path, weights_only=True)["data"]["road"]
            change(path, data={"road": one, "bridge": one}, flag={"bridge": {"audio": True, "seismic": True}})
    assert list(load(tmp_path).shapes) == ["road.audio", "road.seismic", "bridge.audio", "bridge.seismic"]


def test_a_single_index_is_divided_by_recording(tmp_path: Path) -> None:
    recordings = {f"{kind}{number}": kind == "van" for kind in ("car", "van") for number in range(5)}
    write_set(tmp_path, {"train": {name: int(label) for name, label in recordings.items()}})
    data = load(tmp_path)
    train, test = ({recording_of(Path(name)) for name in part} for part in names(data).values())
    assert not train & test
    assert {name[:3] for name in test} == {"car", "van"}
    assert (len(data.train), len(data.test)) == (24, 6)
    assert data.notes == ()
    assert names(load(tmp_path / "train_index.txt")) == names(load(tmp_path)) == names(data)
    leaky = load(tmp_path, split_by="segment")
    assert len(leaky.notes) == 1
    assert leaky.notes[0].startswith("WARNING: the parts train and test hold segments of the same recordings (")


def test_recordings_of_several_classes_are_held_out_whole(tmp_path: Path) -> None:
    paths = write_set(tmp_path, {"train": {f"subject{number}": 0 for number in range(5)}})
    for path in paths["train"]:
        change(path, label=torch.tensor(int(path.stem[-1])))
    data = load(tmp_path)
    assert len({recording_of(Path(name)) for name in names(data)["test"]}) == 1
    assert sorted(data.test.labels.tolist()) == [0, 1, 2]


def test_splits_that_share_recordings_give_a_warning_that_names_them(tmp_path: Path) -> None:
    paths = six(tmp_path)
    index = tmp_path / "test_index.txt"
    index.write_text(index.read_text() + f"{paths['train'][0].relative_to(tmp_path)}\n")
    data = load(tmp_path)
    assert [note for note in data.notes if "WARNING" in note and "train and test" in note and "(car-train)" in note]
    assert names(data)["test"][-1] == "segments/car-train_road_0.pt+1"


def test_without_a_test_index_the_validation_part_is_measured_on(tmp_path: Path) -> None:
    six(tmp_path)
    (tmp_path / "test_index.txt").unlink()
    data = load(tmp_path)
    assert data.validation is None
    assert {recording_of(Path(name)) for name in names(data)["test"]} == {"car-val", "van-val"}


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []

    def counted(path: Path) -> object:
        read.append(path)
        return read_segment(path)

    monkeypatch.setattr(recordings, "read_segment", counted)
    return read


def test_a_second_start_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = six(tmp_path)
    read = count_reads(monkeypatch)
    first = load(tmp_path)
    assert len(read) == 18
    second = load(tmp_path)
    assert len(read) == 18
    for one, other in zip(
        make_loader(first.train, 4, train=True), make_loader(second.train, 4, train=True), strict=True
    ):
        assert torch.equal(one[0]["audio"], other[0]["audio"])
        assert torch.equal(one[1], other[1])
    assert first.train.files == second.train.files
    # What changed is read again, and nothing else: a file, another set of files.
    change(paths["train"][0], label=torch.tensor(1))
    assert load(tmp_path).train.labels.tolist() == [1, 0, 0, 1, 1, 1]
    assert len(read) == 19
    (tmp_path / "val_index.txt").unlink()
    load(tmp_path)
    assert len(read) == 19
    os.utime(paths["train"][1], ns=(1, 1))
    load(tmp_path)
    assert len(read) == 20


def test_known_files_of_another_place_and_a_damaged_cache_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    six(tmp_path / "a")
    read = count_reads(monkeypatch)
    load(tmp_path / "a")
    file = next((tmp_path / "a").glob(".bitdial-labels-fft.cache"))
    file.write_text(file.read_text().replace('"label": 1', '"label": 0'))
    assert set(load(tmp_path / "a").train.labels.tolist()) == {0, 1}
    assert len(read) == 36
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # keeps the times
    load(tmp_path / "b")
    assert len(read) == 36
    load(tmp_path / "b", transform="rfft")  # whose extremes are others
    assert len(read) == 54


def test_where_the_folder_cannot_be_written_the_cache_folder_is(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    six(tmp_path / "a")
    whole = label_cache.write_atomically

    def refusing(path: Path, content: str) -> Path:
        if path.parent == tmp_path / "a":
            raise PermissionError(path)
        return whole(path, content)

    monkeypatch.setattr(label_cache, "write_atomically", refusing)
    read = count_reads(monkeypatch)
    load(tmp_path / "a")
    load(tmp_path / "a")
    assert len(read) == 18
    assert len(list((cache / "recordings").iterdir())) == 1
    assert not list((tmp_path / "a").glob(".bitdial*"))


@pytest.mark.parametrize("workers", [0, 1])
def test_segments_that_do_not_fit_into_memory_are_read_when_used(tmp_path: Path, workers: int) -> None:
    six(tmp_path, missing={"seismic": [1]})
    held, read = load(tmp_path), load(tmp_path, memory_limit=100)
    assert held.train.segments.held is not None
    assert read.train.segments.held is None
    loaders = [make_loader(data.train, 4, train=True, seed=3, workers=workers) for data in (held, read)]
    for one, other in zip(*loaders, strict=True):
        for name in one[0]:
            present = one[0]["present"].all(1)
            assert torch.equal(one[0][name][present], other[0][name][present])
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("limit", [100, 2 << 30])
def test_a_file_that_goes_or_changes_later_is_named(tmp_path: Path, limit: int) -> None:
    paths = six(tmp_path)
    load(tmp_path)
    data = load(tmp_path, memory_limit=limit)
    kept = torch.load(paths["train"][0], weights_only=True)
    change(paths["train"][0], data={"road": {name: x[:, :2] for name, x in kept["data"]["road"].items()}})
    with pytest.raises(BitdialError, match=r"car-train_road_0\.pt changed while it was in use"):
        list(make_loader(data.train, 4, train=True))
    paths["train"][0].unlink()
    with pytest.raises(BitdialError, match=r"cannot read .*car-train_road_0\.pt"):
        list(make_loader(data.train, 4, train=True))


def test_batches_are_a_function_of_seed_and_epoch(tmp_path: Path) -> None:
    six(tmp_path)
    loader = make_loader(load(tmp_path).train, 2, train=True, seed=1)
    loader.set_epoch(3)
    whole = list(loader)
    loader.start_at(1)
    again = list(loader)
    assert len(again) == len(whole) - 1
    assert torch.equal(whole[1][0]["audio"], again[0][0]["audio"])
    shares = [make_loader(load(tmp_path).train, 1, train=True, seed=1, rank=rank, world_size=2) for rank in (0, 1)]
    for each in shares:
        each.set_epoch(3)
    both = [torch.cat([a[1], b[1]]) for a, b in zip(*shares, strict=True)]
    assert torch.equal(torch.stack(both), torch.stack([y for _, y in whole]))


def test_samples_are_read_when_they_are_first_used(tmp_path: Path) -> None:
    six(tmp_path)
    load(tmp_path)
    data = load(tmp_path)
    assert not bool(data.train.segments.is_read.any())
    for _ in make_loader(data.test, 2, train=False):
        pass
    assert int(data.train.segments.is_read.sum()) == len(data.test)


def test_cutting_drops_the_rest() -> None:
    signal = torch.arange(2 * 45.0).reshape(2, 45)
    parts = cut(signal, 10, window=2, intervals=4)
    assert parts.shape == (2, 2, 4, 5)
    assert parts[1, 1].flatten().tolist() == signal[1, 20:40].tolist()
