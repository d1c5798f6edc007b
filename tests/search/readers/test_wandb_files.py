from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from bitdial.search.readers.found import FoundRun, UnreadableError
from bitdial.search.readers.record_file import BLOCK, MAGIC, Damage, framed
from bitdial.search.readers.wandb_files import read_wandb


def read(path: Path) -> FoundRun:
    (run,) = read_wandb(path, "run")
    return run


def write(path: Path, *records: bytes) -> Path:
    """Records framed as wandb frames them, by the description of LevelDB's log."""
    data = bytearray(MAGIC)

    def add(kind: int, part: bytes) -> None:
        data.extend(struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part)

    for record in records:
        first = True
        while True:
            room = BLOCK - len(data) % BLOCK
            if room < 7:
                data.extend(bytes(room))
                continue
            part, record = record[: room - 7], record[room - 7 :]
            add({(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not record], part)
            first = False
            if not record:
                break
    path.write_bytes(data)
    return path


def test_run_of_wandb_itself(wandb_runs: dict[str, Path]) -> None:
    run = read(wandb_runs["whole"])
    assert (run.state, run.steps, run.group, run.source, run.notes) == ("finished", 299, "first", "wandb", [])
    # An update of a nested setting replaces all of it.
    assert run.config == {"lr": 0.001, "model.depth": 4, "flag": True, "nothing": None}
    assert run.metrics == {
        "loss": 1 / 300, "accuracy": 0.7, "accuracy.max": 0.9, "best.loss": 0.25,
        "val.psnr": 1234, "val.psnr.last": 299,
    }  # fmt: skip


def test_what_is_not_finite_is_kept_and_media_are_left_out_with_notes(wandb_runs: dict[str, Path]) -> None:
    run = read(wandb_runs["odd"])
    assert run.metrics["loss"] == 1.0
    assert run.metrics["up"] == math.inf
    assert run.metrics["down"] == -math.inf
    assert math.isnan(run.metrics["end"])
    assert run.metrics["size"] == 2
    assert set(run.metrics) == {"loss", "up", "down", "end", "size"}  # no numbers of the picture, such as its height
    assert sorted(run.notes) == [
        "down was first not finite (-inf) at step 0",
        "end was first not finite (nan) at step 5",
        "loss was first not finite (nan) at step 2",
        "media and tables are left out: bars, picture, table",
        "up was first not finite (inf) at step 3",
    ]


def test_how_a_run_ended(wandb_runs: dict[str, Path]) -> None:
    assert read(wandb_runs["failed"]).state == "failed"
    silent = read(wandb_runs["silent"])
    assert (silent.state, silent.metrics, silent.notes) == ("finished", {}, ["no metric was logged"])


def test_killed_run_keeps_what_was_written(wandb_runs: dict[str, Path]) -> None:
    run = read(wandb_runs["killed"])
    assert run.state == "running or crashed"
    assert run.config == {"lr": 0.1}
    assert run.steps is not None
    assert run.steps > 10
    assert run.metrics["loss"] == pytest.approx(1 / (run.steps + 1), rel=0.1)  # a summary may be a step ahead
    assert run.notes in ([], ["the end of the file is missing; what was whole is kept"])  # killed between two blocks


def test_file_that_is_cut_keeps_what_was_whole(wandb_runs: dict[str, Path], tmp_path: Path) -> None:
    whole = wandb_runs["whole"].read_bytes()
    steps = []
    for share in (0.7, 0.9):
        (tmp_path / "cut.wandb").write_bytes(whole[: int(share * len(whole))])
        run = read(tmp_path / "cut.wandb")
        assert run.state == "running or crashed"
        assert run.notes == ["the end of the file is missing; what was whole is kept"]
        assert run.config["lr"] == 0.001
        assert run.steps is not None
        assert run.metrics["loss"] == pytest.approx(1 / (run.steps + 1), rel=0.02)  # a summary may be a step ahead
        assert not any(name.endswith(".last") for name in run.metrics)
        steps.append(run.steps)
    assert 150 < steps[0] < 240 < steps[1] < 290


def test_run_that_was_killed_before_a_block_was_full(tmp_path: Path) -> None:
    (tmp_path / "run.wandb").write_bytes(MAGIC)
    run = read(tmp_path / "run.wandb")
    assert (run.state, run.metrics) == ("running or crashed", {})
    assert run.notes[0].startswith("no whole record")


def test_damaged_block_is_skipped_and_the_next_one_is_read(wandb_runs: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(wandb_runs["whole"].read_bytes())
    assert len(data) > 3 * BLOCK
    data[BLOCK + 100] ^= 1
    (tmp_path / "run.wandb").write_bytes(data)
    run, whole = read(tmp_path / "run.wandb"), read(wandb_runs["whole"])
    assert (run.metrics, run.config, run.state) == (whole.metrics, whole.config, "finished")
    assert run.notes == ["damaged blocks of 32 KiB were read in part: 1"]


@pytest.mark.parametrize("sizes", [[1], [BLOCK - 14], [BLOCK - 15, 5], [BLOCK - 20, 5], [3 * BLOCK, 7, 2 * BLOCK], [0]])
def test_records_of_any_length_come_back(sizes: list[int], tmp_path: Path) -> None:
    records = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    damage = Damage()
    file = io.BytesIO(write(tmp_path / "x", *records).read_bytes()[len(MAGIC) :])
    # The stream stands after the magic bytes, as in a file.
    assert list(framed(file, damage)) == records
    assert damage.notes() == []


def test_typed_values_and_unknown_fields(tmp_path: Path) -> None:
    """Fields 3 to 8 in place of JSON, as newer versions may write: made with wandb's own messages."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    record = messages.Record(num=3, uuid="unknown here")
    record.history.step.num = 7
    for name, field, value in (
        ("flag", "boolean", True), ("count", "integer", -5), ("loss", "number", 0.5), ("nan", "number", math.nan),
        ("word", "text", "hello"), ("nested", "json", json.dumps({"a": {"b": 2}})), ("nothing", "none", 0),
    ):  # fmt: skip
        item = record.history.item.add(nested_key=["typed", name])
        setattr(item, field, value)
    record.history.item.add(key="top", value_json="0.25")
    output = messages.Record()
    output.output_raw.line = "a line that was printed"
    run = read(write(tmp_path / "x.wandb", record.SerializeToString(), output.SerializeToString()))
    assert math.isnan(run.metrics.pop("typed.nan"))
    assert run.metrics == {"typed.flag": 1, "typed.count": -5, "typed.loss": 0.5, "typed.nested.a.b": 2, "top": 0.25}
    assert run.notes == ["typed.nan was first not finite (nan) at step 7"]


def test_changes_of_configuration_and_summary(tmp_path: Path) -> None:
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")

    def made(fill: Callable[[object], None]) -> bytes:
        record = messages.Record()
        fill(record)
        return bytes(record.SerializeToString())

    def begin(record: object) -> None:
        record.run.project = "project"
        record.run.config.update.add(key="model", value_json='{"depth": 3, "act": "relu"}')
        record.run.config.update.add(key="old", value_json="1")

    def change(record: object) -> None:
        record.config.update.add(nested_key=["model", "depth"], value_json="5")
        record.config.remove.add(key="old")

    def summary(record: object) -> None:
        record.summary.update.add(key="a", value_json='{"min": 1}')
        record.summary.update.add(key="b", value_json='"NaN"')

    def remove(record: object) -> None:
        record.summary.remove.add(key="a")

    run = read(write(tmp_path / "x.wandb", *map(made, (begin, change, summary, remove))))
    assert run.config == {"model.depth": 5, "model.act": "relu"}
    assert run.group == "project"
    assert list(run.metrics) == ["b"]
    assert run.notes == ["b is nan"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "an empty file"), (b"a" * 99, "does not begin as a record file of wandb does")],
)
def test_what_is_no_record_file_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.wandb").write_bytes(content)
    with pytest.raises(UnreadableError, match=reason):
        read(tmp_path / "x.wandb")
