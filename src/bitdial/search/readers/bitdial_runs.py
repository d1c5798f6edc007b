"""Bitdial's own runs, of their folders: a run for each arm and seed, whatever the recipe, read without it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from bitdial.search.readers.found import (
    RUNNING,
    FoundRun,
    Metrics,
    UnreadableError,
    number,
    number_in,
    numbers,
    settings,
)
from bitdial.search.readers.json_folders import load_mapping
from bitdial.search.readers.tables import Log, Table

OWN_FILES = frozenset(
    {
        "config.yaml",
        "data.json",
        "metrics.csv",
        "layers.csv",
        "results.json",
        "cyclic_precision_results.json",
        "tracker.json",
    }
)
OWN_FOLDERS = frozenset({"checkpoints", "models", "pictures", "plots", "tensorboard", "wandb"})
"""What lies in the folder of a run and is no run of its own."""
_OF_THE_ARM = ("kind", "quantizer", "activation_bits", "teacher", "lambda_value")
"""What a record says of how its arm was trained."""


def is_bitdial_run(folder: Path) -> bool:
    """Whether a folder is that of a run: its first file begins with the recipe; or it has the results of one."""
    for name, start in (("config.yaml", b"recipe:"), ("results.json", b'{\n  "schema_version":')):
        path = folder / name
        try:
            if path.is_file():
                with path.open("rb") as file:
                    if file.read(len(start)) == start:
                        return True
        except OSError:
            continue
    return False


def read_bitdial(folder: Path, name: str) -> list[FoundRun]:
    """Read the arms of a run, each with each seed, finished or not.

    Raises:
        UnreadableError: nothing of it can be read.
    """
    notes = list[str]()
    config, records, finished = dict[str, Any](), list[dict[str, Any]](), False
    try:
        results = load_mapping(folder / "results.json")
        config = {"recipe": results.get("recipe"), **_mapping(results.get("config"))}
        records = next(_lists_of_records(results), [])
        finished = bool(records)
    except FileNotFoundError:
        pass
    except UnreadableError as error:
        notes.append(f"results.json: {error}")
    if not finished:
        records = list(_records_of_arms(folder, notes))
        try:
            config = load_mapping(folder / "config.yaml")
        except (OSError, UnreadableError) as error:
            notes.append(f"config.yaml: {error}")
    logs, table = _logs(folder / "metrics.csv", notes)
    if not config and not records and not logs:
        raise UnreadableError(f"the folder of a run of bitdial, of which nothing can be read ({'; '.join(notes)})")
    return [*_runs(folder, name, config, records, logs, table, notes)]


def _runs(
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    records: list[dict[str, Any]],
    logs: dict[tuple[str, ...], Log],
    table: Table | None,
    notes: list[str],
) -> Iterator[FoundRun]:
    def run(
        arm: Any, seed: Any, more: Mapping[str, Any], state: str, metrics: Metrics, steps: Any, *told: str
    ) -> FoundRun:
        own = {**flat, **settings({**_mapping(experiments.get(str(arm))), "arm": arm, "seed": seed, **more})}
        said = [*notes, *told, *metrics.notes()]
        count = int(steps) if steps is not None and math.isfinite(steps) else None
        return FoundRun(f"{name}:{arm}-seed{seed}", "bitdial", folder, state, own, metrics.last, count, said, name)

    experiments = _mapping(config.get("experiments"))
    flat = settings({key: value for key, value in config.items() if key != "experiments"})
    for record in records:
        arm, seed, metrics = _arm(record), record["seed"], Metrics()
        log = logs.pop((str(arm), str(seed)), None) or (logs.pop((), None) if len(records) == 1 else None)
        if log is not None and table is not None:
            metrics = table.metrics(log)
        told = list[str]()
        try:
            metrics.last |= _numbers(record)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            told.append(f"part of its record is damaged ({type(error).__name__}: {error})")
        steps = number(record.get("iterations", record.get("steps")))
        yield run(arm, seed, {k: record[k] for k in _OF_THE_ARM if k in record}, "finished", metrics, steps, *told)
    for key, log in logs.items():
        assert table is not None
        arm, seed = (key[0], table.setting(key[1])) if len(key) == 2 else _only_arm(folder, config)
        value = number_in(str(arm).removeprefix("lambda_"))  # an arm for each lambda is called so
        more = {"lambda_value": value} if value is not None and "lambda_value" in flat else {}
        told = [f"not finished: the last step in its log is {log.steps}"]
        yield run(arm, seed, more, RUNNING, table.metrics(log), log.steps, *told)
    if not records and not logs:
        yield run(*_only_arm(folder, config), {}, RUNNING, Metrics(), None, "not finished: nothing is logged yet")


def _only_arm(folder: Path, config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Arm and seed where the log need not tell them."""
    named = [path.name.removesuffix("_tracking.json") for path in folder.glob("checkpoints/*-seed*_tracking.json")]
    arm = named[0].rsplit("-seed", 1)[0] if len(named) == 1 else config.get("recipe")
    return arm, config.get("seed")


def _lists_of_records(results: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The list of results with a seed each; which of the recipes wrote them is the same here."""
    for value in results.values():
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            found = [each for each in value if "seed" in each and _arm(each) is not None]
            if len(found) == len(value):
                yield found


def _records_of_arms(folder: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """What each arm left that was finished before the run was stopped, or that was a trial of a search."""
    seen = set[tuple[str, str]]()
    for path in sorted([*folder.glob("models/*.json"), *folder.glob("checkpoints/*/arm.json")]):
        try:
            record = load_mapping(path)
        except (OSError, UnreadableError) as error:
            notes.append(f"{path.relative_to(folder)}: {error}")
        else:
            key = str(_arm(record)), str(record.get("seed"))
            if "seed" in record and _arm(record) is not None and key not in seen:
                seen.add(key)
                yield record


def _logs(path: Path, notes: list[str]) -> tuple[dict[tuple[str, ...], Log], Table | None]:
    try:
        table = Table(path)
        logs, _ = table.logs()
    except FileNotFoundError:
        return {}, None
    except (OSError, UnreadableError) as error:
        notes.append(f"metrics.csv: {error}")
        return {}, None
    notes += [f"metrics.csv: {note}" for note in table.notes]
    return logs, table


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record: those of its widths with the width in the name, and what the codec's own files are."""
    plain = {
        key: value for key, value in record.items() if key not in ("seed", *_OF_THE_ARM) and not isinstance(value, list)
    }
    for name in ("own", "test", "test_last", "validation"):
        if isinstance(plain.get(name), Mapping):
            plain[name] = _score(plain[name])
    found = numbers(plain)
    scores = record.get("scores")
    if isinstance(scores, list) and all(isinstance(score, Mapping) for score in scores):
        widths = [f"{number(score.get('bits')):g}bit" for score in scores]
        for width, score in zip(widths, scores, strict=True):
            found |= {f"{key}_{width}": value for key, value in numbers(_score(score)).items() if key != "bits"}
        for key, values in record.items():  # the lists that go with them: sizes, BitOps
            if isinstance(values, list) and [number(each) is not None for each in values] == [True] * len(widths):
                found |= numbers({f"{key}_{width}": each for width, each in zip(widths, values, strict=True)})
    return found | _codec_numbers(record.get("points"))


def _score(score: Mapping[str, Any]) -> dict[str, Any]:
    """A score with its further metrics beside the first ones, and NaN for what could not be measured."""
    own = {key: value for key, value in score.items() if key != "metrics"} | _mapping(score.get("metrics"))
    return {k: math.nan if value is None and k in ("accuracy", "loss") else value for k, value in own.items()}


def _codec_numbers(points: Any) -> dict[str, float]:
    """Means over pictures, of the codec's own files: all bits over all pixels, and each picture alike in the rest.

    A picture that any codec gives back without an error has no PSNR, and is in no mean.
    """
    if not isinstance(points, list):
        return {}
    exact = {point["picture"] for point in points if point["psnr"] is None}
    own = [point for point in points if point["part"] == "own" and point["picture"] not in exact]
    if not own:
        return {}
    similar = [point["ms_ssim"] for point in own if point["ms_ssim"] is not None]
    found = {
        "bpp": 8 * sum(point["size"] for point in own) / sum(point["pixels"] for point in own),
        **{key: fmean(point[key] for point in own) for key in ("psnr", "encode_seconds", "decode_seconds")},
    }
    return found | ({"ms_ssim": fmean(similar)} if len(similar) == len(own) else {})


def _arm(record: Mapping[str, Any]) -> Any:
    return record.get("name", record.get("experiment"))


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
