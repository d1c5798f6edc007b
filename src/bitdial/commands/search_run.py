"""What ``bitdial search`` does: the space is checked, trials are claimed and trained one after the other."""

from __future__ import annotations

import errno
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import optuna
import torch

import bitdial
from bitdial.commands.search_report import line_of, print_report, spelled
from bitdial.configuration.flags import read_flags
from bitdial.configuration.settings import Settings
from bitdial.errors import BitdialError, RunInterrupted
from bitdial.recipes import find_recipe
from bitdial.recipes.recipe import Recipe
from bitdial.recipes.resuming import WHERE_IT_RUNS, options_over, plain
from bitdial.recipes.run import say
from bitdial.recipes.trial import rehearsed, rename_records, run_trial
from bitdial.search.pruning import TrialWatch
from bitdial.search.samplers import check_sampler, make_pruner
from bitdial.search.space import Space
from bitdial.search.storage import faults, shown, storage_faults
from bitdial.search.study import FOLDER, HOST, PLANNED, REASON, STEPS, Heartbeat, SharedStudy, open_study
from bitdial.terminal import terminal
from bitdial.training import TrainingDiverged

if TYPE_CHECKING:
    from optuna.trial import Trial

    from bitdial.commands.search import SearchConfig

OWNED = dict.fromkeys(
    ("run_dir", "resume", "accept_changed_data", "experiment.results_dir", "csv_log"),
    "belongs to the search, which gives each trial a run of its own",
)
"""Options that nobody may set in a search."""
_LUCK, _OTHER = "for it would choose by luck or by length", "for values of other data cannot be compared"
KEPT = {
    **dict.fromkeys(("seed", "seeds"), _LUCK),
    **dict.fromkeys(("dataset", "data_path", "test_path", "test_share", "validation_fraction", "monitor"), _OTHER),
}
"""Options that may be fixed, but not searched."""
DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    **dict.fromkeys(("accuracy", "best_accuracy", "psnr", "ms_ssim", "f1", "precision", "recall", "auc"), "maximize"),
    **dict.fromkeys(("loss", "test_loss", "bpp", "mse", "mae", "rmse", "error", "perplexity"), "minimize"),
}
"""What is known of usual metrics."""
MOST_FAILURES = 3
"""So many failures in a row that are no divergence end a worker: the next trial would fail alike."""


def search(name: str, asked: SearchConfig, words: Sequence[str]) -> int:
    """Search the options of a recipe; return the exit status."""
    with _quietly():
        searching = Searching.prepare(name, asked, words)
        with closing(searching.study):
            return searching.run()


@dataclass
class Searching:
    """One worker of a search.

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
    failures: int = 0
    """In a row, that are no divergence."""

    @classmethod
    def prepare(cls, name: str, asked: SearchConfig, words: Sequence[str]) -> Searching:
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
            return options_over(recipe, recipe.tuned.settings, "search", words, values)

        build({})  # what is wrong with flags is told of them
        assert asked.space is not None
        space = Space.read(asked.space, recipe.options, build=build, flags=line.values, refused=OWNED, kept=KEPT)
        options = _named_as_middle(space, build)
        _check_devices(options)
        rescaling = sorted(recipe.tuned.rescales & space.searched.keys())
        if rescaling and not asked.metric:
            raise BitdialError(
                f"{rescaling[0]} changes the scale of what is judged, so that trials cannot be compared; name other "
                "scores with it, such as --metric psnr,bpp"
            )
        run = rehearsed(recipe, options, asked.metric)
        task = run.work.task
        default = getattr(options, "monitor", None) or task.metric
        metrics = list(asked.metric) or [default]
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
        for note in (*options.file_notes, *notes):
            say(note)
        shared = SharedStudy(opened, space, asked.trials, asked.sampler, asked.seed)
        return cls(recipe, words, metrics, shared, storage, asked.runs / f"search-{study}", build)

    def run(self) -> int:
        """Train trials until the study has as many as it is to have."""
        with storage_faults(self.storage), _sigterm_as_ctrl_c():
            try:
                while (trial := self.study.claim()) is not None:
                    try:
                        self._trial(trial)
                    except optuna.exceptions.UpdateFinishedTrialError:
                        say(f"trial {trial.number} was taken for dead by another worker and is left to the others")
            except KeyboardInterrupt:
                raise RunInterrupted(f"stopped between two trials; {self._how_to_go_on}") from None
            print_report(self.study, self.recipe, self.words, self.metrics, terminal())
        done = [trial for trial in self.study.counted if trial.state.name == "COMPLETE"]
        return 0 if done else 2

    @property
    def _how_to_go_on(self) -> str:
        return f"the same command goes on with the study '{self.study.study.study_name}' in {shown(self.storage)}"

    def _trial(self, trial: Trial) -> None:
        failures: tuple[type[Exception], ...] = (BitdialError, torch.OutOfMemoryError, *faults())
        watch = TrialWatch(trial if len(self.metrics) == 1 else None, self.metrics[0])
        try:
            values = self.study.choose(trial)
            folder, goes_on = self._place(trial)
            with Heartbeat(trial):
                options = self.build(values)
                _check_devices(options)
                trained = self._trained(trial, options, watch, folder, goes_on)
            if watch.lost is not None:
                raise watch.lost
            watch.pruned = False  # it came to its end, by early stopping
            scores = [trained.scores[metric] for metric in self.metrics]
            if not all(map(_is_finite, scores)):
                raise TrainingDiverged(f"{self.metrics[0]} is not a finite number at the end, got {scores[0]}")
            self.study.tell(trial, scores, "COMPLETE", self._steps(watch))
            rename_records(trained.folder)
        except (RunInterrupted, KeyboardInterrupt) as stop:
            self._stopped(trial, watch, stop)
        except failures as error:
            if error is watch.lost:
                raise
            self._failed(trial, watch, error)
        except BaseException as error:
            self.study.tell(trial, None, "FAIL", {REASON: f"{type(error).__name__}: {error}"[:500]})
            raise
        else:
            self.failures = 0
        ended, console = self.study.study.trials[trial.number], terminal()
        console.print(line_of(ended, self.metrics), soft_wrap=not console.is_terminal)
        if self.failures >= MOST_FAILURES:
            raise BitdialError(f"{self.failures} trials in a row failed; the last one: {ended.user_attrs[REASON]}")

    def _trained(self, trial: Trial, options: Any, watch: TrialWatch, folder: Path, goes_on: bool) -> Any:
        name = f"trial {trial.number}"
        if goes_on:
            try:
                return run_trial(self.recipe, options, watch, folder, name=name, go_on=True)
            except (RunInterrupted, TrainingDiverged):
                raise
            except BitdialError as error:
                if watch.steps:
                    raise
                say(f"trial {trial.number} cannot go on with {folder} and begins anew: {error}")
                folder = self._new_folder(trial)
        return run_trial(self.recipe, options, watch, folder, name=name)

    def _place(self, trial: Trial) -> tuple[Path, bool]:
        """The folder of a trial's run, and whether it holds one to go on with, on this machine."""
        before = trial.user_attrs.get(FOLDER)
        if before is not None and trial.user_attrs.get(HOST) == self.study.me.host:
            folder = Path(before)
            if (folder / "config.yaml").is_file():
                return folder, True
        return self._new_folder(trial), False

    def _new_folder(self, trial: Trial) -> Path:
        folder = first = self.folder / f"trial-{trial.number:04d}"
        number = 1
        while folder.exists():  # of a study of this name that is no more
            number += 1
            folder = first.with_name(f"{first.name}-{number}")
        trial.set_user_attr(FOLDER, str(folder.absolute()))
        trial.set_user_attr(HOST, self.study.me.host)
        return folder

    def _steps(self, watch: TrialWatch) -> dict[str, int]:
        taken = sum(watch.steps.values())
        if not watch.pruned:
            return {STEPS: taken, PLANNED: taken}
        return {STEPS: taken, PLANNED: sum(watch.planned.values()) * self._seeds}

    @property
    def _seeds(self) -> int:
        return int(self.build(self.study.space.middle).seeds)

    def _stopped(self, trial: Trial, watch: TrialWatch, stop: BaseException) -> None:
        """By the pruner, by the loss of the study, or by the user."""
        if watch.lost is not None:
            raise watch.lost
        if watch.pruned:
            self.study.tell(trial, None, "PRUNED", self._steps(watch))
            return
        self.study.put_back(trial)
        text = " ".join(str(stop).split(";")[0].split()) or "stopped"
        raise RunInterrupted(f"trial {trial.number}: {text}; {self._how_to_go_on}, this trial first") from None

    def _failed(self, trial: Trial, watch: TrialWatch, error: Exception) -> None:
        if _is_of_the_machine(error):
            self.study.put_back(trial)
            told = f"trial {trial.number} was put back: {error}"
            raise BitdialError(f"{told}; once mended, {self._how_to_go_on}") from error
        facts = {REASON: " ".join(str(error).split())[:500], **self._steps(watch)}
        self.study.tell(trial, None, "FAIL", facts)
        self.failures = 0 if isinstance(error, TrainingDiverged) else self.failures + 1


def _named_as_middle(space: Space, build: Callable[[Mapping[str, Any]], Any]) -> Any:
    try:
        return build(space.middle)
    except BitdialError as error:
        chosen = ", ".join(f"{name}={spelled(value)}" for name, value in space.middle.items())
        raise BitdialError(f"in the middle of the space ({chosen}): {error}") from None


def _check_devices(options: Any) -> None:
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


def _is_finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _is_of_the_machine(error: BaseException | None) -> bool:
    """Whether something failed for a reason that has nothing to do with the trial, such as a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Optuna's own lines, and its warnings of what is experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end a worker as Ctrl-C does, between trials too, so that its trial goes back to the others."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
