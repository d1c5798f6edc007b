"""The command ``bitdial train ternary``: options, scenarios, and what ``--resume`` goes on with."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from bitdial.configuration import load_config
from bitdial.errors import BitdialError
from bitdial.recipes.resuming import WHERE_IT_RUNS, Resuming, newest_run
from bitdial.recipes.ternary.checkpoints import Source, find_source
from bitdial.recipes.ternary.config import TernaryConfig
from bitdial.recipes.ternary.job import run_job
from bitdial.recipes.ternary.scenarios import SCENARIOS, list_scenarios
from bitdial.training import RunFolder

PROG = "bitdial train ternary"

LENGTH = frozenset({"epochs", "steps", "early_stopping_patience"})
"""Options that may be raised, never lowered, when a run is resumed."""
HOUSEKEEPING = frozenset({"save_freq", "checkpoint_interval", "keep_last_n", "log_interval", "csv_log"})
"""Options that shape logs and files, not results."""

RESUMING = Resuming(TernaryConfig, SCENARIOS, PROG, free=WHERE_IT_RUNS | LENGTH | HOUSEKEEPING)


def run(argv: list[str]) -> int:
    """Run the recipe with the words after its name; return the exit status."""
    if "--list" in argv:
        list_scenarios(Console())
        return 0
    config = load_config(TernaryConfig, SCENARIOS, argv, prog=PROG)
    if config.resume is False:
        run_job(config, shlex.join([*PROG.split(), *argv]))
        return 0
    source = _source(config)
    if source.run is None:
        run_job(config, shlex.join([*PROG.split(), *argv]), source)
        return 0
    stored, config = RESUMING.options(source.run, argv)
    check_length(stored, config, source.run)
    own = argv[1:] if argv[0] == "resume" else argv  # the scenario says no more than --resume
    run_job(config, RESUMING.command(source.run, own, config), source)
    return 0


def check_length(stored: TernaryConfig, wanted: TernaryConfig, run: RunFolder) -> None:
    """Refuse a run that would become shorter than it was to be.

    Raises:
        BitdialError: fewer epochs, steps, or less patience; or a length counted otherwise.
    """
    for name in sorted(LENGTH):
        before, now = getattr(stored, name), getattr(wanted, name)
        if before is not None and now is None:
            raise BitdialError(f"{run.path} counts {name}, expected --{name} to make it longer; give {name}")
        if before is not None and now < before:
            raise BitdialError(
                f"{name} may only be raised when {run.path} is resumed, from {before}, got {now}; start a new run"
            )


def _source(config: TernaryConfig) -> Source:
    if isinstance(config.resume, Path) and config.resume != Path("auto"):
        return find_source(config.resume)
    if config.run_dir is not None:
        return Source(RunFolder.open(config.run_dir), None)
    return Source(newest_run(Path("runs"), "ternary"), None)
