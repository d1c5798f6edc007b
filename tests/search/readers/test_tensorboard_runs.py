from __future__ import annotations

import io
import math
import random
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from bitdial.search.readers import read_runs
from bitdial.search.readers.event_file import Damage, events, masked_sums
from bitdial.search.readers.found import FoundRun, Unread
from bitdial.search.readers.tensorboard_runs import read_tensorboard


def framed(*records: bytes) -> bytes:
    """Records as TFRecord files hold them, by TensorBoard's own checksum."""
    parts = []
    for record in records:
        length = len(record).to_bytes(8, "little")
        sums = (masked_crc32c(each).to_bytes(4, "little") for each in (length, record))
        parts += [length, next(sums), record, next(sums)]
    return b"".join(parts)


def scalar(tag: str, value: float, step: int) -> bytes:
    return bytes(
        Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])).SerializeToString()
    )


def read(folder: Path) -> tuple[list[FoundRun], list[Unread]]:
    files: dict[Path, list[Path]] = {}
    for path in folder.rglob("*tfevents*"):
        files.setdefault(path.parent, []).append(path)
    return read_tensorboard(files, lambda place: place.relative_to(folder.parent).as_posix())


def test_checksums_are_those_of_tensorboard() -> None:
    rng = random.Random(0)
    lengths = [[0, 1, 2, 3, 4, 5, 127, 128, 129, 255, 256, 257, 3000], [8], [50, 60], [0], [3]]
    for some in lengths:
        records = [rng.randbytes(rng.choice(some)) for _ in range(100)]
        ends = np.cumsum([len(record) for record in records])
        starts = ends - [len(record) for record in records]
        data = np.frombuffer(b"".join(records) + b"more", np.uint8)
        assert masked_sums(data, starts, ends).tolist() == [masked_crc32c(record) for record in records]


def test_events_are_those_of_tensorboards_own_reader(events_of_many_kinds: Path) -> None:
    for path in events_of_many_kinds.rglob("*tfevents*"):
        damage = Damage()
        with path.open("rb") as file:
            own = list(events(file, damage))
        assert own == list(RawEventFileLoader(str(path)).Load())
        assert len(own) > 3
        assert damage.notes("x") == []


def test_records_longer_than_what_is_read_at_once() -> None:
    records = [b"a" * 10, b"b" * (3 * 2**19), b"c" * 100, b"d" * 2**20]
    damage = Damage()
    assert list(events(io.BytesIO(framed(*records)), damage)) == records
    assert not damage.cut


def test_run_of_torch_with_its_hparams(events_of_many_kinds: Path) -> None:
    (run,), unread = read(events_of_many_kinds)
    assert unread == []
    assert (run.name, run.state, run.steps, run.source) == ("run", "finished", 2, "tensorboard")
    assert run.config == {"lr": 0.1, "kind": "sgd"}
    assert run.metrics == {"train/loss": 0.5, "tensor": 2, "double": 2 / 3, "hparam/accuracy": 0.5}
    assert run.notes == ["train/loss was first not finite (nan) at step 1"]


def test_several_sessions_of_hparams_stay_runs_of_their_own(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "all")) as writer:
        writer.add_scalar("loss", 1.0, 0)
        for index in range(2):
            writer.add_hparams({"lr": 0.1 * index}, {"accuracy": index}, run_name=f"session-{index}")
    runs, _ = read(tmp_path / "all")
    assert {run.name: run.config for run in runs} == {
        "all": {}, "all/session-0": {"lr": 0.0}, "all/session-1": {"lr": 0.1}
    }  # fmt: skip


@pytest.mark.parametrize(("status", "state"), [(1, "finished"), (2, "failed"), (3, "running or crashed")])
def test_state_is_what_the_hparams_plugin_says(status: int, state: str, tmp_path: Path) -> None:
    data = HParamsPluginData(session_end_info={"status": status})
    value = Summary.Value(tag="_hparams_/session_end_info")
    value.metadata.plugin_data.plugin_name = "hparams"
    value.metadata.plugin_data.content = data.SerializeToString()
    (tmp_path / "events.out.tfevents.1").write_bytes(
        framed(Event(summary=Summary(value=[value])).SerializeToString(), scalar("a", 1, 1))
    )
    assert read(tmp_path)[0][0].state == state


def test_files_of_a_resumed_run_are_one_run_in_the_order_of_their_making(tmp_path: Path) -> None:
    for number in (10, 9):  # not the order of their letters
        (tmp_path / f"events.out.tfevents.1.host.{number}").write_bytes(framed(scalar("loss", number, number)))
    (run,), _ = read(tmp_path)
    assert (run.metrics, run.steps) == ({"loss": 10}, 10)


def test_folders_that_bitdial_logs_its_arms_to_are_runs_where_they_stand_alone(tmp_path: Path) -> None:
    for number, arm in enumerate(("cpt-0", "static_4bit-0"), 1):
        (tmp_path / "tensorboard" / arm).mkdir(parents=True)
        (tmp_path / "tensorboard" / arm / "events.out.tfevents.1").write_bytes(framed(scalar("loss", number, 5)))
    assert {run.name: run.metrics["loss"] for run in read_runs(tmp_path)[0]} == {
        "tensorboard/cpt-0": 1, "tensorboard/static_4bit-0": 2
    }  # fmt: skip


def test_tensors_with_their_numbers_as_bytes(tmp_path: Path) -> None:
    values = []
    for tag, form, kind in (("float", "<f4", 1), ("double", "<f8", 2)):
        value = Summary.Value(tag=tag)
        value.tensor.dtype = kind
        value.tensor.tensor_content = np.array([0.25], form).tobytes()
        values.append(value)
    (tmp_path / "events.out.tfevents.1").write_bytes(framed(Event(summary=Summary(value=values)).SerializeToString()))
    assert read(tmp_path)[0][0].metrics == {"float": 0.25, "double": 0.25}


def test_damage_costs_the_event_that_it_is_in(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    data = bytearray(framed(*(scalar("loss", step, step) for step in range(1, 6))))
    record = len(data) // 5
    data[4 * record + 14] ^= 1
    path.write_bytes(data)
    (run,), _ = read(tmp_path)
    assert (run.metrics, run.steps) == ({"loss": 4}, 4)
    assert run.notes == [f"{path.name}: damaged events are left out: 1"]
    data[3 * record] ^= 1  # its length: where the next one begins is not known
    path.write_bytes(data)
    (run,), _ = read(tmp_path)
    assert run.metrics == {"loss": 3}
    assert run.notes == [f"{path.name}: damaged in its middle; what comes after is lost"]
    path.write_bytes(data[: 2 * record + 20])
    (run,), _ = read(tmp_path)
    assert run.metrics == {"loss": 2}
    assert run.notes == [f"{path.name}: the last event is not whole and was left out"]


def test_files_without_an_event_are_named(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    (tmp_path / "events.out.tfevents.2").write_bytes(b"nothing of the kind, but long enough")
    (tmp_path / "events.out.tfevents.3").write_bytes(framed(scalar("loss", math.inf, 3)))
    (run,), unread = read(tmp_path)
    assert run.metrics == {"loss": math.inf}
    assert [each.reason for each in unread] == ["an empty file", "no event in it is whole"]
