"""Which run ``--resume`` goes on with, under which options, and what may differ from those it was started with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from rich.console import Console

from bitdial.configuration import SharedConfig, load_config, read_yaml, to_yaml
from bitdial.errors import BitdialError
from bitdial.training import RunFolder

C = TypeVar("C", bound=SharedConfig)

WHERE_IT_RUNS = frozenset({"resume", "run_dir", "data_path", "devices", "num_nodes", "strategy", "workers", "compile"})
"""Options of every recipe that may differ when a run is resumed: where it runs and where its data lies."""


@dataclass(frozen=True)
class Resuming(Generic[C]):
    """How the runs of one recipe are resumed.

    Attributes:
        config_type: the recipe's options.
        presets: its presets.
        prog: what the user types to get to it, ``"bitdial train cyclic"``.
        free: options that may differ when a run is resumed.
    """

    config_type: type[C]
    presets: Mapping[str, Mapping[str, Any]]
    prog: str
    free: Set[str] = WHERE_IT_RUNS

    def options(self, run: RunFolder, argv: Sequence[str]) -> tuple[C, C]:
        """The options that a run was started with, and those that a command line asks for now.

        The latter are the run's own file, under preset and flags.

        Raises:
            BitdialError: one that is not free differs, or the command line is wrong.
        """
        stored = load_config(self.config_type, {}, ["--config", str(run.config)], prog=self.prog)
        own = read_yaml(run.config).values
        exclusive = self.config_type.exclusive
        below = {name: _over(own, preset, exclusive) for name, preset in self.presets.items()} | {str(run.path): own}
        words = list(argv) if self._names_preset(argv) else ["--preset", str(run.path), *argv]
        wanted = load_config(self.config_type, below, words, prog=self.prog)
        self._refuse_changes(stored.model_dump(), wanted.model_dump(), run)
        return stored, wanted

    def command(self, run: RunFolder, argv: Sequence[str], config: C) -> str:
        """The command line that makes a resumed run from its start: the same words where they say it all."""
        words = list(argv)
        at = next((i for i, word in enumerate(words) if word.partition("=")[0] == "--resume"), None)
        if at is not None:
            named = words[at] == "--resume" and at + 1 < len(words) and not words[at + 1].startswith("--")
            del words[at : at + (2 if named else 1)]
        same = plain(load_config(self.config_type, self.presets, words, prog=self.prog)) == plain(config)
        return shlex.join([*self.prog.split(), *(words if same else ["--config", str(run.config)])])

    def _names_preset(self, argv: Sequence[str]) -> bool:
        flagged = any(word.partition("=")[0] == "--preset" for word in argv)
        return flagged or (bool(argv) and argv[0] in self.presets)

    def _refuse_changes(
        self, stored: Mapping[str, Any], wanted: Mapping[str, Any], run: RunFolder, prefix: str = ""
    ) -> None:
        for name, before in stored.items():
            now = wanted[name]
            if prefix + name in self.free or before == now:
                continue
            if isinstance(before, Mapping) and before.keys() == now.keys() and not prefix:
                self._refuse_changes(before, now, run, f"{name}.")
                continue
            raise BitdialError(
                f"{prefix}{name} must stay {_short(before)} when {run.path} is resumed, got {_short(now)}; "
                "leave it out, or start a new run"
            )


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


def tell_folder(run: RunFolder, *, resumed: bool) -> None:
    """Say where a run is: a new one gets the next free number, and ``--resume`` alone takes the newest, whichever."""
    text = f"going on with {run.path}" if resumed else f"run folder: {run.path}"
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


def plain(config: SharedConfig) -> dict[str, Any]:
    """The options as plain values, without those that say where this one run lies: they are not to be repeated."""
    loaded: dict[str, Any] = yaml.safe_load(to_yaml(config.model_copy(update={"resume": False, "run_dir": None})))
    return loaded


def _over(own: Mapping[str, Any], preset: Mapping[str, Any], exclusive: Sequence[Sequence[str]] = ()) -> dict[str, Any]:
    """A run's options under those of a preset, group by group; an option of the preset clears those it excludes."""
    groups = {name: {**own.get(name, {}), **value} for name, value in preset.items() if isinstance(value, Mapping)}
    cleared = {name: None for names in exclusive if any(name in preset for name in names) for name in names}
    return {**own, **cleared, **preset, **groups}


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
