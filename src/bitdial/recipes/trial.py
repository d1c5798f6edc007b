"""A run of a recipe as a search makes many of: only the network that is judged is trained, test data is left alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from bitdial.errors import BitdialError, suggest
from bitdial.evaluation.results import ArmRecord, RunResults
from bitdial.recipes.recipe import Bench, Recipe
from bitdial.recipes.rehearsal import Rehearsal, Rehearsed
from bitdial.recipes.resuming import WHERE_IT_RUNS, options_of
from bitdial.recipes.run import Run
from bitdial.recipes.source import NEW, Source
from bitdial.recipes.start import checked, prepare
from bitdial.search.pruning import TrialWatch
from bitdial.training import RunFolder, TrainingState
from bitdial.training.scoring import scores_of

Judged = Run[Any, Any, Any, Any]


class JudgedArm(ArmRecord):
    """What one network of a trial scored in its last evaluation."""

    name: str
    seed: int
    steps: int
    scores: dict[str, float]


class JudgedRun(RunResults):
    """Nothing but the type of its records: a trial leaves no results."""

    record_type: ClassVar[type[ArmRecord]] = JudgedArm


@dataclass(frozen=True)
class Trained:
    """A trial at its end.

    Attributes:
        scores: name -> mean over the seeds of what the last evaluation gave.
        folder: of its run.
    """

    scores: Mapping[str, float]
    folder: RunFolder


def judged_arm(recipe: Recipe[Any, Any, Any, Any], options: Any) -> str:
    """The name of the arm that a search judges.

    Raises:
        BitdialError: there are several, and none of them is the one.
    """
    if recipe.tuned.arm is not None:
        return recipe.tuned.arm
    names = [arm.name for arm in recipe.arms(options)]
    if len(names) > 1:
        raise BitdialError(
            f"a trial trains one network, expected options for one, got {len(names)} arms ({', '.join(names)}); leave "
            "out what makes several"
        )
    return str(names[0])


def judged(
    recipe: Recipe[Any, Any, Any, Any], watch: TrialWatch | None = None, name: str = ""
) -> Recipe[Any, Any, Any, Any]:
    """The recipe cut down to the arm that is judged, and those that this one needs; measured by its evaluations alone.

    Args:
        recipe: whole.
        watch: hears of everything that is trained.
        name: what the live line begins with.
    """

    def arms(options: Any) -> Sequence[Any]:
        plan = recipe.arms(options)
        wanted = {judged_arm(recipe, options)}
        for arm in reversed(plan):  # each comes after those that it needs
            wanted |= arm.before if arm.name in wanted else set()
        return [arm for arm in plan if arm.name in wanted]

    def train(arm: Any, bench: Bench[Any]) -> TrainingState:
        if watch is not None:
            first = arm.name == judged_arm(recipe, bench.options) and bench.seed == bench.options.seed
            watch.begin(f"{arm.name}-seed{bench.seed}", reports=first)
            shown = bench.setup.progress
            if shown is not None:  # a line that goes: the search has one of its own for each trial
                live = shown.enabled and shown.console.is_terminal
                shown = replace(shown, label=f"{name}: {shown.label}", enabled=live, transient=True)
            setup = replace(bench.setup, hooks=[*bench.setup.hooks, watch], progress=shown)
            bench = replace(bench, setup=setup)
        return recipe.train(arm, bench)

    def measure(arm: Any, bench: Bench[Any], state: TrainingState) -> JudgedArm:
        return JudgedArm(name=arm.name, seed=bench.seed, steps=state.step, scores=state.scores)

    return replace(recipe, arms=arms, train=train, measure=measure, results=JudgedRun, suffices=lambda *_: True)


class _Look(Rehearsal):
    """Evaluates the new network once, where a rehearsal looks at two examples."""

    def fit(self, model: Any, *parts: Any, **more: Any) -> TrainingState:
        """Evaluate instead of training."""
        evaluate = more.get("evaluate")
        assert self.fabric is not None
        found = {} if evaluate is None else scores_of(evaluate, self.fabric.to_device(model), self.fabric)
        raise _Seen(found)


class _Seen(Rehearsed):
    def __init__(self, scores: Mapping[str, float]) -> None:
        super().__init__(None)
        self.scores = scores


def rehearsed(recipe: Recipe[Any, Any, Any, Any], options: Any, metrics: Sequence[str]) -> Judged:
    """Check that trials can train and be judged by data held out; nothing is written.

    Args:
        recipe: whole.
        options: of some trial.
        metrics: names that evaluations must have; none: they are known to.

    Raises:
        BitdialError: they cannot.
    """
    run = checked(judged(recipe), options)
    if run.fabric.world_size > 1:
        raise BitdialError(
            f"a worker of a search trains on one device, got {run.fabric.world_size}; start a worker for each, with "
            "--devices '[0]', '[1]', ..."
        )
    if run.work.loaders(run.seeds[0]).validation is None:
        raise BitdialError(
            "a search judges by data held out, expected a validation_fraction above 0, got 0; .1 is usual"
        )
    if metrics:
        seed, name = run.seeds[0], judged_arm(recipe, options)
        arm = next(each for each in recipe.arms(options) if each.name == name)
        setup = _Look(run.setup.fabric, run.setup.precision, task=run.work.task)
        try:
            recipe.train(arm, run.bench(arm, seed, run.new_model(arm, seed), setup))
        except _Seen as seen:
            for metric in metrics:
                if metric not in seen.scores:
                    hint = suggest(metric, seen.scores) or "; choose one"
                    raise BitdialError(
                        f"--metric must be a score of an evaluation ({', '.join(seen.scores)}), got {metric!r}{hint}"
                    ) from None
    return run


def run_trial(
    recipe: Recipe[Any, Any, Any, Any],
    options: Any,
    watch: TrialWatch,
    folder: Path,
    *,
    name: str = "trial",
    go_on: bool = False,
) -> Trained:
    """Train one trial, new or from where it was stopped.

    Args:
        recipe: whole.
        options: of the trial.
        watch: hears of everything that is trained.
        folder: of its run; a new one, or that to go on with.
        name: what the live line begins with.
        go_on: whether it is to go on with what lies there.

    Raises:
        BitdialError: an option is at fault, or a loss is not finite.
        RunInterrupted: stopped on request, or by the pruner, after saving.
    """
    source, where = NEW, options.model_copy(update={"run_dir": folder})
    if go_on:  # with the options that it has, a measured batch size among them, here
        source = Source(RunFolder.open(folder), None)
        own, here = options_of(recipe, RunFolder.open(folder)), WHERE_IT_RUNS & type(options).model_fields.keys()
        where = own.model_copy(update={name: getattr(options, name) for name in here})
    run = prepare(judged(recipe, watch, name), where, source, tell=lambda _: None)
    assert run.folder is not None
    arm = judged_arm(recipe, options)
    records = [each for each in run.arms() if each.name == arm]
    names = records[0].scores
    scores = {name: math.fsum(each.scores[name] for each in records) / len(records) for name in names}
    return Trained(scores, run.folder)


def rename_records(folder: RunFolder) -> None:
    """Leave the run of a trial that is over as one that was stopped at its end, which ``--resume`` measures in full."""
    for record in (*folder.models.glob("*-seed*[0-9].json"), *folder.checkpoints.glob("*-seed*/arm.json")):
        key = record.parent.name if record.name == "arm.json" else record.stem
        folder.models.mkdir(exist_ok=True)
        record.rename(folder.models / f"{key}-trial.json")
