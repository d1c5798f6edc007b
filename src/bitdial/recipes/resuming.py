"""Under which options ``--resume`` goes on, what may differ from those that a run was started with; being stopped."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml

from bitdial import machine
from bitdial.configuration import load_config, read_yaml, to_yaml
from bitdial.errors import BitdialError, RunInterrupted
from bitdial.recipes.options import RunOptions
from bitdial.recipes.recipe import O, Recipe
from bitdial.training import RunFolder, TrainingDiverged

_OF_ONE_CALL = {"resume": False, "run_dir": None, "accept_changed_data": False}
WHERE_IT_RUNS = frozenset({*_OF_ONE_CALL, "data_path", "devices", "num_nodes", "strategy", "workers", "compile"})
"""Options of every recipe that may differ when a run is resumed: where it runs and where its data lies."""


def read_options(
    recipe: Recipe[O, Any, Any, Any],
    argv: Sequence[str],
    values: Mapping[str, Any] | None = None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> O:
    """The options of a command line, or of a call in Python: flags and `values` over file over preset.

    Raises:
        BitdialError: anything the user got wrong.
    """
    known = recipe.presets if presets is None else presets
    return load_config(recipe.options, known, argv, prog=recipe.prog, recipe=recipe.name, values=values)


def options_of(recipe: Recipe[O, Any, Any, Any], run: RunFolder) -> O:
    """The options that a run was started with."""
    return read_options(recipe, ["--config", str(run.config)])


def options_over(
    recipe: Recipe[O, Any, Any, Any],
    own: Mapping[str, Any],
    name: str,
    argv: Sequence[str],
    values: Mapping[str, Any] | None = None,
) -> O:
    """The options of a command line, or of a call in Python, over others, which errors call by `name`.

    Raises:
        BitdialError: anything the user got wrong.
    """
    exclusive = recipe.options.exclusive
    below = {preset: _over(own, given, exclusive) for preset, given in recipe.presets.items()} | {name: dict(own)}
    words = list(argv) if _names_preset(recipe, argv) else ["--preset", name, *argv]
    return read_options(recipe, words, values, below)


def asked_of(
    recipe: Recipe[O, Any, Any, Any], run: RunFolder, argv: Sequence[str], values: Mapping[str, Any] | None = None
) -> O:
    """The options that a run goes on with: its own file, under preset and flags.

    Raises:
        BitdialError: one differs that may not, or would become less, or the command line is wrong.
    """
    stored = options_of(recipe, run)
    own = {name: value for name, value in read_yaml(run.config).values.items() if name != "recipe"}
    wanted = options_over(recipe, own, str(run.path), argv, values)
    if wanted.measures_batch:  # it has been, with memory used like this
        machine.return_large_blocks()
        wanted = wanted.model_copy(update={"batch_size": stored.batch_size, "memory_limit": None})
    free = WHERE_IT_RUNS | recipe.may_change | recipe.may_grow
    _refuse_changes(stored.model_dump(), wanted.model_dump(), run, free)
    for name in sorted(recipe.may_grow):
        before, now = getattr(stored, name), getattr(wanted, name)
        if before is not None and now is None:
            raise BitdialError(f"{run.path} counts {name}, expected --{name} to make it longer; give {name}")
        if before is not None and now < before:
            raise BitdialError(
                f"{name} may only be raised when {run.path} is resumed, from {before}, got {now}; start a new run"
            )
    return wanted


def command_of(recipe: Recipe[O, Any, Any, Any], run: RunFolder, argv: Sequence[str], options: O) -> str:
    """The command line that makes a resumed run from its start: the same words where they say it all."""
    words = list(argv)
    if words and recipe.presets.get(words[0], {}).keys() == {"resume"}:
        del words[0]  # it says no more than --resume
    at = next((i for i, word in enumerate(words) if word.partition("=")[0] == "--resume"), None)
    if at is not None:
        named = words[at] == "--resume" and at + 1 < len(words) and not words[at + 1].startswith("--")
        del words[at : at + (2 if named else 1)]
    same = plain(read_options(recipe, words)) == plain(options)
    return shlex.join([*recipe.prog.split(), *(words if same else ["--config", str(run.config)])])


def plain(options: RunOptions) -> dict[str, Any]:
    """The options as plain values, without those of one call, such as where its run lies: not to be repeated."""
    loaded: dict[str, Any] = yaml.safe_load(to_yaml(options.model_copy(update=_OF_ONE_CALL)))
    return loaded


@contextmanager
def named(what: str, how_to_resume: str, *, saved: bool) -> Iterator[None]:
    """Say which arm was trained when training was stopped or went wrong, and how to go on if anything was saved."""
    try:
        yield
    except (RunInterrupted, TrainingDiverged) as error:
        raise type(error)(f"{what}: {error}") from error
    except KeyboardInterrupt:  # outside of the steps, which save first
        kept = f"what was saved before is kept; to go on: {how_to_resume}" if saved else "nothing was saved"
        raise RunInterrupted(f"{what}: stopped by Ctrl-C between training and measuring; {kept}") from None


def _names_preset(recipe: Recipe[Any, Any, Any, Any], argv: Sequence[str]) -> bool:
    flagged = any(word.partition("=")[0] == "--preset" for word in argv)
    return flagged or (bool(argv) and argv[0] in recipe.presets)


def _refuse_changes(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], run: RunFolder, free: frozenset[str], prefix: str = ""
) -> None:
    for name, before in stored.items():
        now = wanted[name]
        if prefix + name in free or before == now:
            continue
        if isinstance(before, Mapping) and before.keys() == now.keys() and not prefix:
            _refuse_changes(before, now, run, free, f"{name}.")
            continue
        raise BitdialError(
            f"{prefix}{name} must stay {_short(before)} when {run.path} is resumed, got {_short(now)}; "
            "leave it out, or start a new run"
        )


def _over(own: Mapping[str, Any], preset: Mapping[str, Any], exclusive: Sequence[Sequence[str]] = ()) -> dict[str, Any]:
    """A run's options under those of a preset, group by group; an option of the preset clears those it excludes."""
    groups = {name: {**own.get(name, {}), **value} for name, value in preset.items() if isinstance(value, Mapping)}
    cleared = {name: None for names in exclusive if any(name in preset for name in names) for name in names}
    return {**own, **cleared, **preset, **groups}


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
