"""The command ``bitdial search RECIPE``: hyper-parameters, by any number of workers that share one study."""

from __future__ import annotations

import difflib
import importlib.util
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from bitdial.configuration import Config, load_config
from bitdial.configuration.flags import HELP
from bitdial.configuration.settings import Settings
from bitdial.errors import BitdialError
from bitdial.lazy import loading_torch
from bitdial.recipes import RECIPES, find_recipe
from bitdial.search.samplers import Pruner, Sampler
from bitdial.search.storage import check_storage

PROG = "bitdial search"
NEAR = 0.8
"""From this likeness on, an unknown flag is taken for a misspelt one of the search; none of a recipe is as near."""
_STUDY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class SearchConfig(Config):
    """Search the options of a recipe: train it again and again, each time with others, and show which are best.

    E.g. `bitdial search cyclic --space space.yaml --trials 20 --steps 200`, where space.yaml has lines such as
    `lr: {low: 1e-3, high: .5, log: true}` or `batch_size: [32, 64]`. Flags, presets and --config of the recipe fix
    options. Start the same command again, on any machine that reaches the storage, for another worker, or to go on.
    Trials are judged by data held out of the training data; test data is never looked at.
    """

    space: Path | None = None
    """YAML file that says what may be chosen."""
    trials: int = Field(20, ge=1)
    """Trials of the study, of all its workers together."""
    storage: str | None = None
    """Where workers meet: journal:FILE, postgresql://USER@HOST/DATABASE or grpc://HOST:PORT; none:
    journal:runs/search-STUDY.log."""
    study: str | None = None
    """Name of the study; none: that of the recipe."""
    sampler: Sampler = "tpe"
    """How options are chosen; grid takes every combination of choices."""
    pruner: Pruner = "median"
    """What stops trials early: median those that are worse than half of the earlier ones at the same step."""
    seed: int | None = Field(None, ge=0, lt=2**32)
    """Seed of the sampler; none: another one each time. That of the training can be fixed in the space file."""
    metric: list[str] = []
    """Score of an evaluation that is judged; none: the one that the recipe goes by. Several are balanced against each
    other, and nothing is pruned."""
    direction: list[Literal["maximize", "minimize"]] = []
    """Whether more or less of the metric is better, one for each; none: as is known of usual ones."""
    runs: Path = Path("runs")
    """Folder that gets the folder search-STUDY, with the run of each trial."""

    @field_validator("study")
    @classmethod
    def _can_be_a_folder(cls, name: str | None) -> str | None:
        if name is not None and not _STUDY.fullmatch(name):
            raise BitdialError(
                f"study must be of at most 100 letters, digits, '_', '-' and '.', got {name!r:.99}; choose another"
            )
        return name

    @field_validator("storage")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None:
            check_storage(name)
        return name

    @field_validator("metric", mode="before")
    @classmethod
    def _may_be_a_comma_list(cls, given: object) -> object:
        names = given if isinstance(given, list) else [given]
        split = [part.strip() for name in names for part in str(name).split(",") if part.strip()]
        twice = [name for name in split if split.count(name) > 1]
        if twice:
            raise BitdialError(f"metric must name different scores, got '{twice[0]}' twice; remove one of them")
        return split


def run(argv: list[str]) -> int:
    """Search with the words after the command; return the exit status."""
    words = list(argv)
    if any(word in HELP for word in words):
        load_config(SearchConfig, {}, ["--help"], prog=PROG, positional="recipe")
    if not words or words[0].startswith("-"):
        got = f"'{words[0]}'" if words else "nothing"
        raise BitdialError(f"expected a RECIPE after `{PROG}`, got {got}; e.g. `{PROG} cyclic --space space.yaml`")
    recipe = words.pop(0)
    if recipe not in RECIPES:
        find_recipe(recipe)  # says it
    own, others = _part(words)
    options = load_config(SearchConfig, {}, own, prog=PROG)
    if options.space is None:
        raise BitdialError("expected a file that says what may be chosen, got none; give --space space.yaml")
    if not options.space.is_file() and not options.space.is_dir():
        from bitdial.configuration import read_yaml

        read_yaml(options.space)  # says it
    if options.direction and len(options.direction) != max(1, len(options.metric)):
        got = f"{len(options.direction)} for {max(1, len(options.metric))}"
        raise BitdialError(f"expected a --direction for each --metric, got {got}; give them in the same order")
    if importlib.util.find_spec("optuna") is None:
        raise BitdialError('a search needs Optuna, which is not installed; pip install "bitdial[search]"')
    loading_torch()
    from bitdial.commands.search_run import search

    return search(recipe, options, others)


def _part(words: list[str]) -> tuple[list[str], list[str]]:
    """The flags of the search, and the words for the recipe."""
    known = Settings(SearchConfig)
    own: dict[str, list[str]] = {}
    others: list[str] = []
    while words:
        word = words.pop(0)
        values = [word]
        while word.startswith("--") and "=" not in word and words and not re.match(r"--?[A-Za-z_]", words[0]):
            values.append(words.pop(0))
        name = known.canonical(word.partition("=")[0].removeprefix("--"))
        if not word.startswith("--") or name not in known:
            _refuse_misspelt(word, name, known)
            others += values
        elif name in own and known[name].takes_list:  # --metric psnr --metric bpp
            own[name] += [word.partition("=")[2]] if "=" in word else values[1:]
        elif name in own:
            raise BitdialError(f"expected each flag once, got --{name} twice; remove one of them")
        else:
            own[name] = [word.partition("=")[0], word.partition("=")[2]] if "=" in word else values
    return [word for each in own.values() for word in each], others


def _refuse_misspelt(word: str, name: str, known: Settings) -> None:
    if word.startswith("--") and name != "seeds" and difflib.get_close_matches(name, [s.name for s in known], 1, NEAR):
        raise BitdialError(f"unknown flag {word}{known.suggestion(name, mark='--')}")
