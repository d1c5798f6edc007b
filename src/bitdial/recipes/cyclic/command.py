"""The command ``bitdial train cyclic``: options, presets, and which run ``--resume`` goes on with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitdial.configuration import load_config, read_yaml
from bitdial.errors import BitdialError
from bitdial.recipes.cyclic.config import CyclicConfig
from bitdial.recipes.cyclic.job import run_job
from bitdial.recipes.cyclic.presets import PRESETS
from bitdial.training import RunFolder

PROG = "bitdial train cyclic"

_FREE_ON_RESUME = {"resume", "run_dir", "data_path", "devices", "num_nodes", "strategy", "workers", "compile", "seeds"}
"""Options that may differ when a run is resumed: where it runs and where its data lies, and how many seeds."""


def run(argv: list[str]) -> int:
    """Run the recipe with the words after its name; return the exit status."""
    config = load_config(CyclicConfig, PRESETS, argv, prog=PROG)
    if config.resume is False:
        run_job(config, shlex.join(["bitdial", "train", "cyclic", *argv]))
        return 0
    folder = _to_resume(config)
    config = _checked(folder, argv)
    run_job(config, _command(folder, argv, config), resumed=folder)
    return 0


def newest_run(root: Path, recipe: str) -> RunFolder:
    """The run folder with the highest number.

    Raises:
        BitdialError: there is none.
    """
    numbered: Sequence[tuple[int, Path]] = sorted(
        (int(path.name.rpartition("-")[2]), path)
        for path in (root.glob(f"{recipe}-*") if root.is_dir() else ())
        if path.name.rpartition("-")[2].isdigit() and (path / "config.yaml").is_file()
    )
    if not numbered:
        raise BitdialError(f"expected a run to resume under {root}/, got none; start one, or give --resume FOLDER")
    return RunFolder.open(numbered[-1][1])


def _to_resume(config: CyclicConfig) -> RunFolder:
    if isinstance(config.resume, Path):
        return RunFolder.open(config.resume)
    if config.run_dir is not None:
        return RunFolder.open(config.run_dir)
    return newest_run(Path(config.experiment.results_dir or "runs"), "cyclic")


def _checked(run: RunFolder, argv: list[str]) -> CyclicConfig:
    """The options of a resumed run: its own file, under preset and flags; nothing that shapes results may differ."""
    stored = load_config(CyclicConfig, {}, ["--config", str(run.config)], prog=PROG)
    own = read_yaml(run.config).values
    below = {name: _over(own, preset) for name, preset in PRESETS.items()} | {str(run.path): own}
    words = argv if _names_preset(argv) else ["--preset", str(run.path), *argv]
    wanted = load_config(CyclicConfig, below, words, prog=PROG)
    _refuse_changes(stored.model_dump(), wanted.model_dump(), run)
    if wanted.seeds < stored.seeds:
        raise BitdialError(f"seeds must be at least {stored.seeds} when {run.path} is resumed, got {wanted.seeds}")
    return wanted


def _names_preset(argv: Sequence[str]) -> bool:
    return any(word.partition("=")[0] == "--preset" for word in argv) or argv[0] in PRESETS


def _over(own: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """A run's options under those of a preset, group by group."""
    groups = {name: {**own.get(name, {}), **value} for name, value in preset.items() if isinstance(value, Mapping)}
    return {**own, **preset, **groups}


def _refuse_changes(stored: Mapping[str, Any], wanted: Mapping[str, Any], run: RunFolder, prefix: str = "") -> None:
    for name, before in stored.items():
        now = wanted[name]
        if prefix + name in _FREE_ON_RESUME or before == now:
            continue
        if isinstance(before, Mapping) and before.keys() == now.keys() and not prefix:
            _refuse_changes(before, now, run, f"{name}.")
            continue
        raise BitdialError(
            f"{prefix}{name} must stay {_short(before)} when {run.path} is resumed, got {_short(now)}; "
            "leave it out, or start a new run"
        )


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _command(run: RunFolder, argv: Sequence[str], config: CyclicConfig) -> str:
    """The command line that makes a resumed run from its start: the same words if they say it all, else its file."""
    words = list(argv)
    at = next((i for i, word in enumerate(words) if word.partition("=")[0] == "--resume"), None)
    if at is not None:
        named = words[at] == "--resume" and at + 1 < len(words) and not words[at + 1].startswith("--")
        del words[at : at + (2 if named else 1)]
    same = _what(load_config(CyclicConfig, PRESETS, words, prog=PROG)) == _what(config)
    return shlex.join(["bitdial", "train", "cyclic", *(words if same else ["--config", str(run.config)])])


def _what(config: CyclicConfig) -> CyclicConfig:
    """The options without those that say where the run lies."""
    return config.model_copy(update={"resume": False, "run_dir": None})
