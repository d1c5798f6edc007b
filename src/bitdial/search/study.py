"""One study that any number of workers share: who trains which trial, and what becomes of one whose worker died.

There are no locks of our own. A worker makes a trial its own first and counts then: the last one to do so sees all, so
that never more trials are kept than were asked for. The ones that are too many go back into the queue, untouched.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from bitdial.errors import BitdialError
from bitdial.search.liveness import HEARTBEAT, WORKER, Worker
from bitdial.search.samplers import make_sampler
from bitdial.search.space import Space
from bitdial.search.storage import close_storage, open_storage, shown, storage_faults

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

IDENTITY, VERSION = "bitdial", "bitdial_version"
"""User attributes of a study: what it searches, and with which version it was begun."""
DIED, REASON, RETRY_OF = "worker_died", "reason", "retry_of"
"""User attributes of a trial, besides those by which its worker lives."""
FOLDER, HOST, STEPS, PLANNED, GRID = "folder", "host", "steps", "planned_steps", "grid_point"


class SharedStudy:
    """A study, as one worker sees it.

    Args:
        study: of Optuna.
        space: what is searched.
        total: how many trials the study is to have, of all workers together.
        sampler: name of the sampler.
        seed: of the sampler, or None for another one each time.
    """

    def __init__(self, study: Study, space: Space, total: int, sampler: str = "tpe", seed: int | None = None) -> None:
        self.study = study
        self.space = space
        self.total = total
        self._sampler = sampler
        self._seed = seed
        self.me = Worker.here()

    def close(self) -> None:
        """Give back the connections to the storage."""
        close_storage(self.study._storage)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, as they are now."""
        return self.study._storage.get_all_trials(self.study._study_id, deepcopy=False)

    @property
    def counted(self) -> list[FrozenTrial]:
        """The trials that count: neither those that wait, nor those whose worker died."""
        return [trial for trial in self.trials if trial.state.name != "WAITING" and not trial.user_attrs.get(DIED)]

    def claim(self) -> Trial | None:
        """A trial for this worker, its options not chosen yet; None where the study has as many as it is to have."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.samplers import RandomSampler

        while True:
            self.bury()
            if len(self.counted) >= self.total:
                return None
            self.study.sampler = RandomSampler()  # no work is done, and nothing written, before the trial is kept
            trial = self.study.ask()
            try:
                trial.set_user_attr(WORKER, asdict(self.me))
                trial.set_user_attr(HEARTBEAT, time.time())
                if len(self.counted) <= self.total:
                    return trial
                self.put_back(trial)
            except UpdateFinishedTrialError:  # taken for dead by another worker, before it was signed
                continue
            time.sleep(random.uniform(0.05, 0.5))

    def choose(self, trial: Trial) -> dict[str, Any]:
        """Choose the options of a trial, by dotted name; those of one that was put back are what they were."""
        from optuna.samplers import PartialFixedSampler, RandomSampler
        from optuna.trial import Trial

        if self._sampler != "grid":
            self.study.sampler = make_sampler(self._sampler, self._seed, trial.number)
        elif GRID not in trial.user_attrs:
            self.study.sampler = PartialFixedSampler(self._free_point(trial), RandomSampler())
        return self.space.suggest(Trial(self.study, trial._trial_id))

    def _free_point(self, trial: Trial) -> dict[str, Any]:
        """A point of the grid that no other trial has; of two that take one at once, the last to write sees both."""
        grid = self.space.grid
        points = list(itertools.product(*grid.values()))
        draw = random.Random(None if self._seed is None else f"{self._seed} {trial.number}")
        while True:
            taken = self._points_of_others(trial)
            free = [each for each in range(len(points)) if each not in taken]
            number = draw.choice(free or range(len(points)))
            trial.set_user_attr(GRID, number)
            if not free or number not in self._points_of_others(trial):
                return dict(zip(grid, points[number], strict=True))
            time.sleep(random.uniform(0.05, 0.5))

    def _points_of_others(self, trial: Trial) -> set[int]:
        others = (each.user_attrs for each in self.trials if each.number != trial.number)
        return {each[GRID] for each in others if GRID in each and not each.get(DIED)}

    def put_back(self, trial: Trial) -> None:
        """Let any worker take a trial up again, with the options that it has."""
        from optuna.trial import TrialState

        trial.set_user_attr(HEARTBEAT, time.time())
        trial.set_user_attr(WORKER, None)
        self.study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def tell(self, trial: Trial, values: Sequence[float] | None, state: str, facts: Mapping[str, Any]) -> None:
        """End a trial, with user attributes."""
        from optuna.samplers import RandomSampler
        from optuna.trial import TrialState

        for name, fact in facts.items():
            trial.set_user_attr(name, fact)
        self.study.sampler = RandomSampler()  # none has anything to do afterwards that we need
        self.study.tell(trial, values, TrialState[state])

    def bury(self) -> None:
        """Fail the trials whose worker is dead, and have each tried once more."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        storage = self.study._storage
        for dead in self.trials:
            if dead.state != TrialState.RUNNING or not self.me.has_lost(dead):
                continue
            host = (dead.user_attrs.get(WORKER) or {}).get("host", "an unknown host")
            try:
                storage.set_trial_user_attr(dead._trial_id, DIED, True)
                storage.set_trial_user_attr(dead._trial_id, REASON, f"its worker on {host} died")
                is_mine = storage.set_trial_state_values(dead._trial_id, TrialState.FAIL)
            except UpdateFinishedTrialError:  # another worker was first
                continue
            if is_mine and dead.params and RETRY_OF not in dead.user_attrs:
                kept = {name: dead.user_attrs[name] for name in (FOLDER, HOST, GRID) if name in dead.user_attrs}
                self.study.enqueue_trial(dict(dead.params), user_attrs={**kept, RETRY_OF: dead.number})


def open_study(
    storage: str,
    name: str,
    directions: Sequence[Literal["minimize", "maximize"]],
    identity: Mapping[str, Any],
    version: str,
    pruner: BasePruner | None = None,
) -> tuple[Study, list[str]]:
    """Begin a study, or join it where there is one of that name.

    Args:
        storage: as `open_storage` takes it.
        name: of the study.
        directions: ``"maximize"`` or ``"minimize"`` for each metric.
        identity: what it searches; whoever joins must search the same.
        version: of this program.
        pruner: of Optuna.

    Returns:
        The study, and what there is to say of it.

    Raises:
        BitdialError: the storage cannot be used, or its study of that name searches something else.
    """
    identity = json.loads(json.dumps(identity))  # as it comes back
    opened = open_storage(storage)
    with ExitStack() as unless_it_works, storage_faults(storage):
        unless_it_works.callback(close_storage, opened)
        found = _join(opened, storage, name, directions, identity, version, pruner)
        unless_it_works.pop_all()
    return found


def _join(
    opened: BaseStorage,
    storage: str,
    name: str,
    directions: Sequence[Literal["minimize", "maximize"]],
    identity: Mapping[str, Any],
    version: str,
    pruner: BasePruner | None,
) -> tuple[Study, list[str]]:
    import optuna

    try:  # whoever makes the study says what it searches; others wait for that
        study = optuna.create_study(storage=opened, study_name=name, directions=list(directions), pruner=pruner)
        study.set_user_attr(VERSION, version)
        study.set_user_attr(IDENTITY, dict(identity))
        return study, []
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=opened, study_name=name, pruner=pruner)
    for _ in range(50):
        found = study.user_attrs.get(IDENTITY)
        if found is not None:
            break
        time.sleep(0.2)
    else:
        raise BitdialError(
            f"the study '{name}' in {shown(storage)} was not begun by `bitdial search`, or its beginning was cut off; "
            "give --study another name"
        )
    difference = _difference(found, identity)
    if difference:
        raise BitdialError(
            f"the study '{name}' in {shown(storage)} searches something else: {difference}; give --study another name "
            "to begin a new one, or search the same"
        )
    began = study.user_attrs.get(VERSION)
    return study, [f"the study was begun with bitdial {began}, this is {version}"] if began != version else []


def _difference(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> str:
    """The first thing in which two identities differ, or nothing."""
    for name in sorted({*there, *here}, key=str):
        before, now = there.get(name), here.get(name)
        if before == now:
            continue
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            return _difference(before, now, f"{prefix}{name} ")
        told = ("nothing" if each is None else str(each) for each in (before, now))
        return f"{prefix}{name} is " + ", here ".join(f"{each[:80]}" for each in told)
    return ""
