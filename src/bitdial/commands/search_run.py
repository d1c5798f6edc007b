"""What ``bitdial search`` does: the space is checked, trials are claimed and trained one after the other."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import torch

from bitdial.commands.search_report import line_of, print_report
from bitdial.commands.search_start import Search, check_devices
from bitdial.errors import BitdialError, RunInterrupted
from bitdial.interrupts import interrupted_by_sigterm
from bitdial.recipes.run import say
from bitdial.recipes.trial import rename_records, run_trial
from bitdial.search.liveness import Heartbeat
from bitdial.search.pruning import TrialWatch
from bitdial.search.storage import faults, shown, storage_faults
from bitdial.search.study import FOLDER, HOST, PLANNED, REASON, STEPS
from bitdial.terminal import terminal
from bitdial.training import TrainingDiverged

if TYPE_CHECKING:
    from optuna.trial import Trial

    from bitdial.commands.search import SearchConfig

MOST_FAILURES = 3
"""So many failures in a row that are no divergence end a worker: the next trial would fail alike."""


def search(name: str, asked: SearchConfig, words: Sequence[str]) -> int:
    """Search the options of a recipe; return the exit status."""
    with _quietly():
        searching = Searching.prepare(name, asked, words)
        with closing(searching.study):
            return searching.run()


@dataclass
class Searching(Search):
    """One worker of a search."""

    failures: int = 0
    """In a row, that are no divergence."""

    def run(self) -> int:
        """Train trials until the study has as many as it is to have."""
        with storage_faults(self.storage), interrupted_by_sigterm():
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
                check_devices(options)
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
