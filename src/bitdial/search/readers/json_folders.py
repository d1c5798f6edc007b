"""Runs that left JSON, and what lies beside a log: files of settings, and settings in the name of a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitdial.search.readers.found import FoundRun, Metrics, UnreadableError, flatten, number, number_in, settings
from bitdial.search.readers.tables import STEPS

METRICS = ("metrics.json", "results.json", "metrics.jsonl")
"""Files whose folder is a run."""
_SETTINGS = ("config.json", "config.yaml", "hparams.yaml", "params.json", "args.json")
_INSIDE = ("config", "params", "hparams", "args")
_LARGEST = 100 * 2**20
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def read_json(path: Path, name: str) -> list[FoundRun]:
    """Read the run whose metrics a JSON file holds: numbers, lists of them, or lines of a log.

    Raises:
        UnreadableError: it is none.
    """
    content, notes = _content(path)
    found, step, config = Metrics(), None, dict[str, Any]()
    if isinstance(content, Mapping):
        for key in _INSIDE:
            if isinstance(content.get(key), Mapping):
                config |= settings(content[key])
        tree = {key: value for key, value in content.items() if key not in _INSIDE}
        for key, value in flatten(tree):
            if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
                step = _take_lines(found, value, f"{key}.")
            elif isinstance(value, list):
                for at, each in enumerate(value, 1):
                    if (measured := number(each)) is not None:
                        found.add(key, measured, at)
            elif (measured := number(value)) is not None:
                found.last[key] = measured
    elif isinstance(content, list) and content and all(isinstance(line, Mapping) for line in content):
        step = _take_lines(found, content, "")
    else:
        raise UnreadableError(f"expected a mapping of metrics or a list of lines, got {type(content).__name__}")
    return [FoundRun(name, "json", path, "finished", config, found.last, step, [*notes, *found.notes()])]


def load_mapping(path: Path) -> dict[Any, Any]:
    """The mapping in a JSON or YAML file.

    Raises:
        UnreadableError: it holds something else, or is damaged.
    """
    if not path.is_file():  # a pipe of that name would never end
        raise FileNotFoundError(path)
    if path.stat().st_size > _LARGEST:
        raise UnreadableError(f"larger than {_LARGEST >> 20} MiB")
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
        else:
            import yaml

            loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
            content = yaml.load(path.read_text(encoding="utf-8"), loader)
    except Exception as error:  # a parser of YAML raises more than it says
        raise UnreadableError(f"damaged ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(content, dict):
        raise UnreadableError(f"expected a mapping, got {type(content).__name__}")
    return content


def settings_beside(path: Path, known: dict[Path, dict[str, Any]], notes: list[str]) -> dict[str, Any]:
    """The settings that lie beside a log: in files of the folder, in the folder's name, and in that of the file.

    Args:
        path: the log, or its folder.
        known: those of folders that were asked for before.
        notes: of the run, to which what is damaged is added.
    """
    folder = path if path.is_dir() else path.parent
    if folder not in known:
        known[folder] = settings_in(folder.resolve().name)
        for each in _SETTINGS:
            try:
                known[folder] |= settings(load_mapping(folder / each))
            except FileNotFoundError:
                continue
            except (UnreadableError, OSError) as error:
                notes.append(f"{each}: {error}")
    return known[folder] | settings_in(path.stem)


def settings_in(name: str) -> dict[str, Any]:
    """The settings in a name such as ``lambda_0.013_gamma_0.003`` or ``lr=0.1,depth=4``; nothing where it is none."""
    if "=" in name:
        pairs = [part.split("=", 1) for part in re.split(r"[,&]", name)]
        if all(len(pair) == 2 and pair[0] for pair in pairs):
            return {key.strip(): _value(text) for key, text in pairs}
        return {}
    found, words = dict[str, Any](), list[str]()
    for part in name.split("_"):
        if words and _NUMBER.fullmatch(part):
            found["_".join(words)] = number_in(part)
            words = []
        else:
            words.append(part)
    return found if len(found) >= 2 and not words else {}  # run_3 is a name, and no setting


def _value(text: str) -> Any:
    value = number_in(text)
    return {"True": True, "False": False, "None": None}.get(text, text) if value is None else value


def _content(path: Path) -> tuple[Any, list[str]]:
    """What a JSON file holds; several values in several lines are a list, of which a damaged line is left out."""
    if path.stat().st_size > _LARGEST:
        raise UnreadableError(f"larger than {_LARGEST >> 20} MiB")
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if not text.strip():
        raise UnreadableError("an empty file")
    try:
        return json.loads(text), []
    except (ValueError, RecursionError) as error:
        lines, damaged = list[Any](), 0
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except (ValueError, RecursionError):
                damaged += bool(line.strip())
        lines = [line for line in lines if isinstance(line, dict)]
        if not lines or damaged > len(lines):
            raise UnreadableError(f"no JSON ({error})") from error
        return lines, [f"damaged lines are left out: {damaged}"] if damaged else []


def _take_lines(found: Metrics, lines: list[Mapping[str, Any]], prefix: str) -> int | None:
    """Add the lines of a log; return the last step."""
    step: Any = None
    for at, line in enumerate(lines, 1):
        flat = dict(flatten(line, prefix))
        places = (flat.get(f"{prefix}{each}") for each in STEPS)
        step = next((place for place in places if isinstance(place, int | float)), at)
        for key, value in flat.items():
            if (measured := number(value)) is not None and key.removeprefix(prefix) not in STEPS:
                found.add(key, measured, step)
    return int(step) if step is not None and abs(step) < 2**63 else None
