"""The samplers and pruners of Optuna that a search offers, by name."""

from __future__ import annotations

import importlib.util
import math
import zlib
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, cast

from bitdial.errors import BitdialError
from bitdial.search.space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

Sampler = Literal["tpe", "random", "gp", "cmaes", "grid", "qmc"]
Pruner = Literal["median", "hyperband", "none"]


def check_sampler(name: str, space: Space, trials: int, objectives: int) -> None:
    """Refuse a sampler that cannot search a space.

    Raises:
        BitdialError: the text says why.
    """
    if name == "cmaes":
        if objectives > 1:
            raise BitdialError("sampler cmaes has one metric, got several; take tpe, gp or random")
        if importlib.util.find_spec("cmaes") is None:
            raise BitdialError("sampler cmaes needs a package that is not installed; pip install cmaes, or take tpe")
    if name == "grid":
        count = math.prod(len(points) for points in space.grid.values())
        if trials > count:
            raise BitdialError(f"the grid of the space has {count} points, got --trials {trials}; give at most {count}")


def make_sampler(name: str, seed: int | None, number: int) -> BaseSampler:
    """A sampler for one trial, other than a grid; with a seed, the same choices after the same results."""
    from optuna import samplers

    own = None if seed is None else zlib.crc32(f"{seed} {number}".encode())
    if name == "random":
        return samplers.RandomSampler(seed=own)
    if name == "gp":
        return samplers.GPSampler(seed=own)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=own)
    if name == "qmc":  # one sequence for all workers
        return samplers.QMCSampler(seed=seed or 0, scramble=True)
    return samplers.TPESampler(seed=own, constant_liar=True)


def make_pruner(name: str) -> BasePruner:
    """A pruner; the median is asked for from the sixth trial on."""
    from optuna import pruners

    class Median(pruners.MedianPruner):
        """Compares with what others had reached by the same step: of other batch sizes they report at other steps."""

        def prune(self, study: Any, trial: Any) -> bool:
            return super().prune(cast(Any, _Reached(study, trial.last_step)), trial)

    if name == "hyperband":
        return pruners.HyperbandPruner()
    return Median() if name == "median" else pruners.NopPruner()


class _Reached:
    """A study whose trials have a single intermediate value: their last one up to a step."""

    def __init__(self, study: Study, step: int) -> None:
        self.direction = study.direction
        self._study, self._step = study, step

    def get_trials(self, **how: Any) -> list[FrozenTrial]:
        """Of the study."""
        found = [copy(trial) for trial in self._study.get_trials(**how)]
        for trial in found:
            reached = {step: value for step, value in trial.intermediate_values.items() if step <= self._step}
            trial.intermediate_values = {self._step: reached[max(reached)]} if reached else {}
        return found
