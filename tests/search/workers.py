"""Workers of a study without any training, as processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import optuna

from bitdial.search.space import Range, Space
from bitdial.search.study import SharedStudy, open_study

SPACE = Space({"lr": Range(1e-3, 1.0, log=True)})
IDENTITY = {"recipe": "none", "space": SPACE.described()}


def join(storage: str, total: int, name: str = "s") -> SharedStudy:
    """The study as a new worker sees it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study, _ = open_study(storage, name, ["maximize"], IDENTITY, "1.0", optuna.pruners.NopPruner())
    return SharedStudy(study, SPACE, total)


def work(storage: str, total: int, seconds: float, dead: Event | None = None, killed_in: int | None = None) -> None:
    """Claim and tell trials until there are enough; die in the middle of the given one, or wait in one for who does."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    shared = join(storage, total)
    done = 0
    while (trial := shared.claim()) is not None:
        lr = shared.choose(trial)["lr"]
        if dead is not None and done == killed_in:
            dead.set()
            os.kill(os.getpid(), signal.SIGKILL)
        if dead is not None and killed_in is None:
            dead.wait(60)
        time.sleep(random.uniform(0, seconds))
        shared.tell(trial, [lr], "COMPLETE", {"pid": os.getpid()})
        done += 1
    shared.close()


@contextmanager
def workers(count: int, *how: object, killed_in: int | None = None) -> Iterator[list[BaseProcess]]:
    """So many of them; the first may be killed in a trial of its own, while the others are in one."""
    context = multiprocessing.get_context("spawn")
    more = {} if killed_in is None else {"dead": context.Event()}
    own = more if killed_in is None else {**more, "killed_in": killed_in}
    made = [context.Process(target=work, args=how, kwargs=own if number == 0 else more) for number in range(count)]
    for each in made:
        each.start()
    try:
        yield list(made)
    finally:
        for each in made:
            each.join(60)


def check(shared: SharedStudy, total: int) -> None:
    """Exactly so many trials count, all of them done, each by one worker."""
    counted = shared.counted
    assert [trial.state.name for trial in counted] == ["COMPLETE"] * total
    assert len({trial.params["lr"] for trial in counted}) == total
    assert all(trial.values == [trial.params["lr"]] for trial in counted)


def journal(folder: Path) -> str:
    """A new one."""
    return f"journal:{folder / 's.log'}"
