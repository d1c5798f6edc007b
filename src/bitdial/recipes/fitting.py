"""``batch_size auto``: the largest batch with which every arm of a run fits into the memory of its device."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.recipes.options import RunOptions
from bitdial.recipes.recipe import Arm
from bitdial.recipes.run import Run, say
from bitdial.training import Hook, LoopConfig, Setup, StepResult, Task, TrainingState, make_fabric
from bitdial.training.batch_size import (
    MARGIN,
    BatchFit,
    find_batch_size,
    free_for_tensors,
    memory_beyond,
    told_bytes,
)
from bitdial.training.batches import length_of
from bitdial.training.devices import in_first_process
from bitdial.training.seeding import preserved_random_state

C = TypeVar("C", bound=RunOptions)


class _Jump(Hook):
    """After two steps goes on with the last two of a run: schedules may ask for more there."""

    def __init__(self, total: int) -> None:
        self.total = total

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """Move the counters that schedules read."""
        if state.step == 2 and self.total > 4:
            state.step = state.applied_steps = self.total - 2
            state.control.steps = state.control.applied_steps = self.total - 2


@dataclass(frozen=True)
class Trial(Setup):
    """A `Setup` in which the first two steps and the last two are trained, for their memory; nothing is written."""

    def fit(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        task: Task,
        loader: Iterable[Any],
        config: LoopConfig,
        *,
        hooks: Any = (),
        learning_rate: Any = None,
        **more: Any,
    ) -> TrainingState:
        """Train a little as the run would, without evaluations.

        Raises:
            MemoryError: a step had to be cut for want of memory.
        """
        total = max(config.total_steps(length_of(loader)) or 2, 2)
        few = {"steps": total, "epochs": None, "eval_interval": None, "checkpoint_interval": None, "compile": False}
        plain = replace(self, hooks=[])
        state = Setup.fit(
            plain,
            model,
            optimizer,
            task,
            loader,
            config.model_copy(update={**few, "checkpoint_epochs": None}),
            learning_rate=learning_rate,
            hooks=[*hooks, *self.hooks, _Jump(total)],
        )
        if state.control.memory_retries:
            raise MemoryError("a step had to be cut")
        return state


def sized(options: C, size: int) -> C:
    """Options with a batch size that is a number; the limit that it was found for is none of the run any more."""
    return options.model_copy(update={"batch_size": size, "memory_limit": None})


def fit_batch(run: Run[Any, Any, Any, Any], limit: float | None) -> Run[Any, Any, Any, Any]:
    """A run with the largest batch that fits, over all devices, found in its first process. All processes come here.

    Nothing of it stays: each trial trains networks of its own, and random numbers are put back.

    Args:
        run: before its devices were launched.
        limit: GiB; None: what is free.

    Raises:
        BitdialError: not even the smallest batch fits, or nobody can change the batches of the data.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":  # the first process does it, alone on the machine
        return run
    with preserved_random_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is worth a warning is said when training starts
        found = _found(run, limit)
    if run.is_first:
        say(found[1])
    return resized(run, found[0])


def resized(run: Run[Any, Any, Any, Any], size: int) -> Run[Any, Any, Any, Any]:
    """A run with another batch size."""
    options = sized(run.options, size)
    return replace(run, options=options, work=run.work.under(options))


def agreed(run: Run[Any, Any, Any, Any]) -> Run[Any, Any, Any, Any]:
    """The run with the batch size that the first process found, in all of them, once they are launched."""
    return resized(run, int(in_first_process(run.fabric, lambda: str(run.options.batch_size))))


def _found(run: Run[Any, Any, Any, Any], limit_gib: float | None) -> tuple[int, str]:
    """The size, and what there is to say of it."""
    fabric = run.fabric
    device, world = fabric.device, fabric.world_size
    examples = run.work.examples()
    budget, limit, own = free_for_tensors(device, limit_gib, world // max(run.options.num_nodes, 1))
    whole = f"{told_bytes(limit)} less a margin of {MARGIN:.0%}"
    if budget <= 0:
        raise BitdialError(
            f"memory_limit must be above the {told_bytes(own)} that the program takes before it trains, got {whole}; "
            "raise it"
        )
    alone = make_fabric([device.index or 0] if device.type == "cuda" else 1)
    trial = Trial(alone, run.setup.precision, task=run.work.task)
    plan = run.recipe.arms(run.options)
    taken_by = memory_beyond(own, budget, device)
    fit: BatchFit | None = None
    for arm in plan:
        if arm.options is not None and arm.options.batch_size != run.options.batch_size:
            continue  # it has a number of its own

        def peak(size: int, arm: Arm = arm) -> float:
            return taken_by(lambda: _try(run, arm, size, trial)) + _exchanged(run, arm)

        if fit is not None and _fits(peak, fit.size, budget):
            continue  # an arm before needs as much or more
        most = examples if fit is None else fit.size
        try:
            fit = find_batch_size(peak, budget, most=most, multiple=world)
        except BitdialError as error:
            raise BitdialError(f"batch_size auto in {whole}, {told_bytes(own)} of it in use: {error}") from error
    if fit is None:
        raise BitdialError("batch_size auto is for arms without a batch_size of their own, got none; leave it out")
    most = None if examples is None else examples - examples % world
    return fit.size, told(fit, limit, own, most)


def told(fit: BatchFit, limit: int, own: int, examples: int | None) -> str:
    """Which size was found, and why."""
    each = f"{told_bytes(own + max(fit.fixed, 0))} + {told_bytes(fit.per_example)} an example"
    within = told_bytes(limit)
    if fit.size == examples:
        return f"batch size: {fit.size} (there are no more examples; {each}, of {within})"
    return f"batch size: {fit.size} (largest that fits in {within}, {MARGIN:.0%} of it left free: {each})"


def _fits(peak: Any, size: int, budget: int) -> bool:
    try:
        return bool(find_batch_size(peak, budget, most=size, multiple=size).size == size)
    except BitdialError:
        return False


def _try(run: Run[Any, Any, Any, Any], arm: Arm, size: int, trial: Setup) -> None:
    """Train a new network of an arm a little, in batches of a size."""
    world = run.fabric.world_size
    options = sized(run.options, size // world)
    mine = replace(run, options=options, work=run.work.under(options))
    arm = next(each for each in run.recipe.arms(options) if each.name == arm.name)
    plan = {each.name: each for each in run.recipe.arms(options)}
    seed = run.seeds[0]
    before = {name: mine.new_model(plan[name], seed) for name in arm.before}
    run.recipe.train(arm, mine.bench(arm, seed, mine.new_model(arm, seed), trial, before))


def _exchanged(run: Run[Any, Any, Any, Any], arm: Arm) -> int:
    """Bytes of the gradients once more, which several processes exchange in buffers of their own."""
    if run.fabric.world_size == 1:
        return 0
    return sum(each.numel() * each.element_size() for each in run.new_model(arm, run.seeds[0]).parameters())
