"""Options of a job before it starts: what is wrong with them, the file that they become, the devices that they take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bitdial.app.records import Problem
from bitdial.configuration import problems_of, settings
from bitdial.errors import BitdialError
from bitdial.recipes import find_choices
from bitdial.recipes.options import RunOptions
from bitdial.recipes.source import find_source


def problems(recipe: str, options: Mapping[str, Any], preset: str | None = None) -> list[Problem]:
    """All that is wrong with the options of a recipe; see `JobManager.check`."""
    try:
        choices = find_choices(recipe)
    except BitdialError as error:
        return [Problem("recipe", str(error))]
    if not isinstance(options, Mapping):
        return [Problem("", f"expected a mapping of options, got {type(options).__name__}")]
    config, found = problems_of(choices.options, choices.presets, options, preset=preset)
    told = [Problem(field, message) for field, message in found]
    if config is None:
        return told
    if config.run_dir is not None:
        told.append(Problem("run_dir", "expected none, as a job has a folder of its own; leave run_dir out"))
    if config.resume is not False and (reason := _not_a_file_of_no_run(config.resume)):
        told.append(Problem("resume", reason))
        return told
    return told + [Problem(field, message) for field, message in choices.faults(recipe, config)]


def as_yaml(recipe: str, options: Mapping[str, Any]) -> str:
    """Options as the file that the run is started with."""
    known = settings(find_choices(recipe).options)
    nested: dict[str, Any] = {"recipe": recipe}
    for name, value in options.items():
        *groups, leaf = known.canonical(str(name)).split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        if isinstance(value, Mapping) and isinstance(inner.get(leaf), dict):
            inner[leaf].update(value)
        else:
            inner[leaf] = _plain(value)
    return yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)


def devices_of(recipe: str, options: Mapping[str, Any], preset: str | None = None) -> list[str]:
    """The devices that valid options take, as the queue names them."""
    choices = find_choices(recipe)
    config, _ = problems_of(choices.options, choices.presets, options, preset=preset)
    return devices(config.devices if isinstance(config, RunOptions) else "auto")


def devices_of_run(folder: Path) -> list[str]:
    """The devices that a run takes which was started by hand."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_bytes())
        return devices(config.get("devices", "auto"))
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return devices("auto")


def devices(wanted: object) -> list[str]:
    """What the option ``devices`` takes: GPUs by number, where there are any, else the CPU, whole."""
    count = gpus()
    if not count:
        return ["cpu"]
    if isinstance(wanted, list):
        return [f"cuda:{number}" for number in wanted]
    every = isinstance(wanted, str) or not isinstance(wanted, int) or wanted < 1
    return [f"cuda:{number}" for number in range(count if every else min(int(str(wanted)), count))]


def gpus() -> int:
    """How many NVIDIA GPUs this process may use, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([each for each in visible.split(",") if each.strip() not in ("", "-1")])
    try:
        return len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        return 0


def _not_a_file_of_no_run(given: bool | Path) -> str:
    """Why a run cannot begin with it, or nothing."""
    told = "expected a checkpoint or state dict of no run; to go on with a run, resume that run itself"
    if isinstance(given, bool) or str(given) == "auto":
        return told
    try:
        return "" if find_source(given).run is None else told
    except BitdialError as error:
        return str(error)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
