"""How ``bitdial search`` begins: flags, space, data and storage are checked, and the study is begun or joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import bitdial
from bitdial.commands.search_report import spelled
from bitdial.configuration.flags import read_flags
from bitdial.configuration.settings import Settings
from bitdial.errors import BitdialError
from bitdial.recipes import find_recipe
from bitdial.recipes.recipe import Recipe
from bitdial.recipes.resuming import WHERE_IT_RUNS, options_over, plain
from bitdial.recipes.run import say
from bitdial.recipes.trial import rehearsed
from bitdial.search.samplers import check_sampler, make_pruner
from bitdial.search.space import Space
from bitdial.search.study import SharedStudy, open_study

if TYPE_CHECKING:
    from bitdial.commands.search import SearchConfig

OWNED = dict.fromkeys(
    ("run_dir", "resume", "accept_changed_data", "experiment.results_dir", "csv_log", "log"),
    "belongs to the search, which gives each trial a run of its own",
)
"""Options that nobody may set in a search."""
_LUCK, _OTHER = "for it would choose by luck or by length", "for values of other data cannot be compared"
KEPT = {
    **dict.fromkeys(("seed", "seeds"), _LUCK),
    **dict.fromkeys(
        (
            "dataset",
            "data_path",
            "test_path",
            "test_share",
            "validation_fraction",
            "monitor",
            "limit_train",
            "limit_test",
        ),
        _OTHER,
    ),
}
"""Options that may be fixed, but not searched."""
DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    **dict.fromkeys(("accuracy", "best_accuracy", "psnr", "ms_ssim", "f1", "precision", "recall", "auc"), "maximize"),
    **dict.fromkeys(("loss", "test_loss", "bpp", "mse", "mae", "rmse", "error", "perplexity"), "minimize"),
}
"""What is known of usual metrics."""


@dataclass
class Search:
    """A search of which everything was checked, and its study.

    Attributes:
        recipe: which is trained.
        words: those of the command line that are for the recipe.
        metrics: what is judged.
        study: shared with the other workers.
        storage: its name.
        folder: of the runs of this study.
        build: options of a trial, of some that are set.
    """

    recipe: Recipe[Any, Any, Any, Any]
    words: Sequence[str]
    metrics: Sequence[str]
    study: SharedStudy
    storage: str
    folder: Path
    build: Callable[[Mapping[str, Any]], Any]

    @classmethod
    def prepare(cls, name: str, asked: SearchConfig, words: Sequence[str]) -> Self:
        """Check everything, before there is a study.

        Raises:
            BitdialError: a flag, the space, the data or the storage is at fault.
        """
        recipe = find_recipe(name)
        line = read_flags(words, Settings(recipe.options), prog=f"bitdial search {name}")
        for flag in line.values:
            if flag in OWNED:
                raise BitdialError(f"--{flag}: {OWNED[flag]}; leave it out")

        def build(values: Mapping[str, Any]) -> Any:
            return options_over(recipe, {"devices": 1, **recipe.tuned.settings}, "search", words, values)

        build({})  # what is wrong with flags is told of them
        assert asked.space is not None
        space = Space.read(asked.space, recipe.options, build=build, flags=line.values, refused=OWNED, kept=KEPT)
        options = _middle_of(space, build)
        check_devices(options)
        run = rehearsed(recipe, options, asked.metric)
        task = run.work.task
        default = getattr(options, "monitor", None) or task.metric
        metrics = list(asked.metric) or [default]
        rescaling = sorted(recipe.tuned.rescales & space.searched.keys())
        if rescaling and task.metric in metrics:
            raise BitdialError(
                f"{rescaling[0]} changes the scale of the metric {task.metric}, so that trials cannot be compared; "
                "judge by other scores, such as --metric psnr,bpp"
            )
        directions = list(asked.direction) or [_direction(metric, task) for metric in metrics]
        check_sampler(asked.sampler, space, asked.trials, len(metrics))
        if len(metrics) > 1 and asked.pruner != "none":
            say("several metrics: no trial is pruned")
        identity = {
            "recipe": name,
            "metrics": metrics,
            "directions": directions,
            "space": space.described(),
            "options": _fixed(options, space),
            "data": {} if run.data is None else run.data.short(),
        }
        study = asked.study or name
        storage = asked.storage or f"journal:{asked.runs / f'search-{study}.log'}"
        opened, notes = open_study(storage, study, directions, identity, bitdial.__version__, make_pruner(asked.pruner))
        if opened.metric_names is None:
            opened.set_metric_names(metrics)  # for whoever reads the study with other tools
        for note in (*options.file_notes, *notes):
            say(note)
        shared = SharedStudy(opened, space, asked.trials, asked.sampler, asked.seed)
        return cls(recipe, words, metrics, shared, storage, asked.runs / f"search-{study}", build)


def _middle_of(space: Space, build: Callable[[Mapping[str, Any]], Any]) -> Any:
    try:
        return build(space.middle)
    except BitdialError as error:
        chosen = ", ".join(f"{name}={spelled(value)}" for name, value in space.middle.items())
        raise BitdialError(f"in the middle of the space ({chosen}): {error}") from None


def check_devices(options: Any) -> None:
    """Refuse several devices.

    Raises:
        BitdialError: there are.
    """
    count = len(options.devices) if isinstance(options.devices, list) else options.devices
    if (isinstance(count, int) and count > 1) or options.num_nodes > 1:
        raise BitdialError(
            "a worker of a search trains on one device, got several; start a worker for each, with --devices 0, 1, ..."
        )


def _direction(metric: str, task: Any) -> Literal["maximize", "minimize"]:
    if metric == task.metric:
        return "maximize" if task.higher_is_better else "minimize"
    if metric not in DIRECTIONS:
        raise BitdialError(f"expected --direction maximize or minimize for the metric {metric}, got none; give one")
    return DIRECTIONS[metric]


def _fixed(options: Any, space: Space) -> dict[str, Any]:
    """The options that are the same in all trials, flat."""

    def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, Mapping) and prefix + name in groups:
                yield from flat(value, f"{prefix}{name}.")
            elif prefix + name not in space.searched and name not in WHERE_IT_RUNS:
                yield prefix + name, value

    groups = Settings(type(options)).groups
    return dict(flat(plain(options)))
