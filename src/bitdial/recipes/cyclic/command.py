"""The command ``bitdial train cyclic``: options, presets, and which run ``--resume`` goes on with."""

from __future__ import annotations

import shlex
from pathlib import Path

from bitdial.configuration import load_config
from bitdial.errors import BitdialError
from bitdial.recipes.cyclic.config import CyclicConfig
from bitdial.recipes.cyclic.job import run_job
from bitdial.recipes.cyclic.presets import PRESETS
from bitdial.recipes.resuming import WHERE_IT_RUNS, Resuming, newest_run
from bitdial.training import RunFolder

PROG = "bitdial train cyclic"

RESUMING = Resuming(CyclicConfig, PRESETS, PROG, free=WHERE_IT_RUNS | {"seeds"})


def run(argv: list[str]) -> int:
    """Run the recipe with the words after its name; return the exit status."""
    config = load_config(CyclicConfig, PRESETS, argv, prog=PROG)
    if config.resume is False:
        run_job(config, shlex.join(["bitdial", "train", "cyclic", *argv]))
        return 0
    folder = _to_resume(config)
    stored, config = RESUMING.options(folder, argv)
    if config.seeds < stored.seeds:
        raise BitdialError(f"seeds must be at least {stored.seeds} when {folder.path} is resumed, got {config.seeds}")
    run_job(config, RESUMING.command(folder, argv, config), resumed=folder)
    return 0


def _to_resume(config: CyclicConfig) -> RunFolder:
    if isinstance(config.resume, Path):
        return RunFolder.open(config.resume)
    if config.run_dir is not None:
        return RunFolder.open(config.run_dir)
    return newest_run(Path(config.experiment.results_dir or "runs"), "cyclic")
