"""What users and their scripts rely on, frozen: every flag with its default, and what a run leaves behind.

A change on purpose is written down with ``BITDIAL_FREEZE=1 python -m pytest tests/recipes/test_frozen.py``, and shows
in the diff.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from bitdial.cli import main
from bitdial.configuration.settings import settings

FROZEN = Path(__file__).parent / "frozen"
FREEZE = os.environ.get("BITDIAL_FREEZE", "0") not in ("", "0")
MODELS = {
    "train cyclic": "bitdial.recipes.cyclic.options:CyclicConfig",
    "train ternary": "bitdial.recipes.ternary.options:TernaryConfig",
    "train joint": "bitdial.recipes.joint.options:JointConfig",
    "train compress": "bitdial.recipes.compress.options:CompressConfig",
    "evaluate": "bitdial.commands.evaluate:EvaluateConfig",
    "compare": "bitdial.commands.compare:CompareConfig",
    "export": "bitdial.commands.export:ExportConfig",
    "recommend": "bitdial.commands.recommend:RecommendConfig",
    "bench amp": "bitdial.commands.bench_amp:BenchAmpConfig",
    "bench codec": "bitdial.commands.bench_codec:BenchCodecConfig",
    "compress": "bitdial.commands.compress:CompressConfig",
    "decompress": "bitdial.commands.compress:DecompressConfig",
}
RUNS = {
    "cyclic": "--model tiny_cnn --steps 12 --num_static_iterations 4 --warmup_steps 2 --log_interval 4 "
    "--cyclic.cycle_length 5 --model_options.bit_widths 2 4 8 --static.test_configurations '{4bit: 4, mixed: [2, 4]}'",
    "ternary": "--model tiny_cnn --epochs 2 --batch_size 256 --log_interval 2 --quantizer ttq --activation_bits 4 "
    "--keep_best 0",
    "joint": "--model tiny_cnn --steps 12 --log_interval 4 --warmup_steps 2 --bitwidth_options 2 4 8",
    "compress": "--model_options.channels 4 --model_options.latent_channels 4 --crop 32 --batch_size 2 --steps 4 "
    "--crops 4 --coded_pictures 1",
}
OF_THE_MOMENT = {
    "created", "machine", "seconds", "seconds_own", "command", "run_dir", "threads", "images_per_second",
    "forward_seconds",
    "points", "model_id", "confusion", "correlation",  # the last bits of weights, and so of files, are of the processor
}  # fmt: skip
"""Keys of results that no two runs share."""


def told(place: str) -> str:
    """Every flag of a command, its type and default; other names for flags; one a line."""
    module, _, name = place.partition(":")
    found = settings(getattr(importlib.import_module(module), name))
    lines = []
    for setting in found:
        default = (
            "required" if setting.info.is_required() else repr(setting.info.get_default(call_default_factory=True))
        )
        kind = getattr(setting.annotation, "__name__", None) or str(setting.annotation)
        if "[" in str(setting.annotation):
            kind = str(setting.annotation).replace("typing.", "")
        lines.append(f"{setting.flag}: {kind} = {default}")
    lines += [f"{alias} -> {name}" for alias, name in sorted(found.aliases.items())]
    return "\n".join(sorted(lines)) + "\n"  # in which order they are listed is no promise


def held(file: Path, now: str) -> str:
    """What is frozen in a file; written first where that is asked for."""
    if FREEZE:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(now, encoding="utf-8")
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", MODELS)
def test_flags(command: str) -> None:
    now = told(MODELS[command])
    assert now == held(FROZEN / f"{command.replace(' ', '_')}.flags.txt", now)


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A tiny run of a recipe: its name and folder."""
    folder = tmp_path_factory.mktemp("frozen") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)
        assert main(["train", request.param, *shlex.split(RUNS[request.param]), "--run_dir", str(folder)]) == 0
    return request.param, folder


def test_files(run: tuple[str, Path]) -> None:
    recipe, folder = run
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    names = ["events.out.tfevents" if "tfevents" in name else name for name in names]
    now = "\n".join(names) + "\n"
    assert now == held(FROZEN / recipe / "files.txt", now)


def test_metrics(run: tuple[str, Path]) -> None:
    recipe, folder = run
    for file in sorted(folder.rglob("metrics.csv")):
        name = str(file.relative_to(folder)).replace("/", "_")
        now = without_times(file.read_text(encoding="utf-8"))
        assert gaps(numbers(now), numbers(held(FROZEN / recipe / name, now))) == []


def test_results(run: tuple[str, Path]) -> None:
    recipe, folder = run
    text = (folder / "results.json").read_text(encoding="utf-8").replace(str(folder), "RUN")
    content = json.loads(text)
    if recipe == "compress":
        del content["sentence"]  # which points are compared is decided by the last bits
    now = json.dumps(lasting(content), indent=1)
    assert gaps(json.loads(now), json.loads(held(FROZEN / recipe / "results.json", now))) == []


def without_times(table: str) -> str:
    """A CSV file without the columns of the moment."""
    rows = list(csv.reader(io.StringIO(table)))
    kept = [number for number, name in enumerate(rows[0]) if name not in OF_THE_MOMENT and "second" not in name]
    return "".join(",".join(row[number] for number in kept) + "\n" for row in rows)


def numbers(table: str) -> list[dict[str, Any]]:
    """The rows of a CSV file."""

    def read(cell: str) -> Any:
        try:
            return float(cell)
        except ValueError:
            return cell

    return [{name: read(cell) for name, cell in row.items()} for row in csv.DictReader(io.StringIO(table))]


def lasting(value: Any) -> Any:
    """What two equal runs share of a nested value; of the comparison only its parts, as a tie decides its order."""
    if isinstance(value, dict):
        if isinstance(value.get("comparison"), dict):
            value = {**value, "comparison": sorted(value["comparison"])}
        return {key: lasting(each) for key, each in value.items() if key not in OF_THE_MOMENT and "second" not in key}
    return [lasting(each) for each in value] if isinstance(value, list) else value


def gaps(now: Any, before: Any, place: str = "") -> list[str]:
    """Where two nested values differ; measured numbers may by what another processor's order of sums does to them."""
    if isinstance(now, dict) and isinstance(before, dict):
        if list(now) != list(before):
            return [f"{place}: {sorted(set(now) ^ set(before)) or 'another order'}"]
        return [gap for key in now for gap in gaps(now[key], before[key], f"{place}.{key}")]
    if isinstance(now, list) and isinstance(before, list):
        if len(now) != len(before):
            return [f"{place}: {len(now)} instead of {len(before)}"]
        return [
            gap
            for number, pair in enumerate(zip(now, before, strict=True))
            for gap in gaps(*pair, f"{place}[{number}]")
        ]
    if isinstance(now, float) and isinstance(before, float):
        same = math.isclose(now, before, rel_tol=0.03, abs_tol=0.03) or (math.isnan(now) and math.isnan(before))
        return [] if same else [f"{place}: {now!r} instead of {before!r}"]
    if isinstance(now, str) and isinstance(before, str):  # the numbers of a sentence are those of the fields
        now, before = (re.sub(r"\d+\.\d+", "1.0", text) for text in (now, before))
    return [] if now == before and type(now) is type(before) else [f"{place}: {now!r} instead of {before!r}"]


def test_a_gap_is_seen() -> None:
    before = {"a": [1, 2.0, "x"], "b": None}
    assert gaps(before, before) == []
    assert gaps({"a": [1, 2.01, "x"], "b": None}, before) == []
    assert gaps({"a": "24.2% at 8 bits"}, {"a": "24.8% at 8 bits"}) == []
    assert len(gaps({"a": "24.2% at 8 bits"}, {"a": "24.2% at 4 bits"})) == 1
    for other in (
        {"a": [2, 2.0, "x"]},
        {"a": [1, 2.2, "x"]},
        {"a": [1, 2.0, "y"]},
        {"a": [1, 2.0]},
        {"a": [1.0, 2.0, "x"]},
    ):
        assert len(gaps({"b": None, **other} if len(other) > 1 else {**other, "b": None}, before)) == 1
    assert gaps({"b": None, "a": before["a"]}, before) == [": another order"]
