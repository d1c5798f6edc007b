"""A run of a recipe: every arm with every seed, trained, measured, and taken up again; it knows no recipe.

Every arm is seeded on its own, so that an arm that was finished before a stop need not run again for the next one to
come out the same; one that was stopped in its middle goes on from its newest sound checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic

import torch
from torch import nn

from bitdial.data import Fingerprint
from bitdial.errors import BitdialError
from bitdial.evaluation import describe_machine
from bitdial.evaluation.equal_cost import ledger_of
from bitdial.files import write_atomically
from bitdial.layers.names import named_as
from bitdial.own_files import digest, is_place
from bitdial.recipes.recipe import A, ArmFiles, Bench, O, R, Recipe, S, Work
from bitdial.recipes.resuming import named, plain
from bitdial.recipes.saved_model import SavedModel, load_weights, quantized
from bitdial.recipes.source import NEW, Source
from bitdial.recipes.states import DescribedCheckpoints, Foreign, set_aside_newer
from bitdial.terminal import terminal
from bitdial.training import (
    CheckpointManager,
    MetricsLog,
    Progress,
    RunFolder,
    Setup,
    seed_everything,
)
from bitdial.training.options import CopiedLogOptions
from bitdial.training.passes import watching
from bitdial.training.progress import Measuring, WholeRun
from bitdial.training.progress_file import ProgressFile
from bitdial.training.tasks import MOST_CLASSES

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class Run(Generic[O, A, R, S]):
    """A run of a recipe.

    Attributes:
        recipe: which.
        options: all options.
        work: data and network, on the device that trains.
        seeds: every arm is trained with each.
        setup: devices and settings that all arms share.
        folder: where files go; None writes nothing.
        source: what the run goes on from.
        foreign: a state from a file of no run, or None.
        show_progress: whether to show a live line for each arm.
        data: which examples it learns from and is tested on, or None where nobody asks.
        progress: is told how far it is, for whoever watches; in the first process alone.
    """

    recipe: Recipe[O, A, R, S]
    options: O
    work: Work
    seeds: Sequence[int]
    setup: Setup = field(default_factory=Setup)
    folder: RunFolder | None = None
    source: Source = NEW
    foreign: Foreign | None = None
    show_progress: bool = False
    data: Fingerprint | None = None
    progress: ProgressFile | None = None

    @property
    def fabric(self) -> Fabric:
        """The devices."""
        assert self.setup.fabric is not None
        return self.setup.fabric

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.setup.fabric is None or bool(self.setup.fabric.is_global_zero)

    def conclude(self, records: Sequence[R], told: str = "", config: Mapping[str, Any] | None = None) -> S:
        """The results of a run, of the records of all its arms."""
        names = self.work.facts().get("class_names", [])
        common = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": told,
            "config": plain(self.options) if config is None else dict(config),
            "machine": describe_machine(),
            "class_names": names if len(names) <= MOST_CLASSES else [],
        }
        results = self.recipe.conclude(records, self, common)
        results.notes.extend(self.data.told() if self.data is not None else [])
        results.notes.extend(self._findings())
        return results

    def _findings(self) -> list[str]:
        """What is doubtful about the network of the first arm that is quantized, on an example that it trained on."""
        seed = self.seeds[0]
        try:
            arm = next(
                arm for arm in self.recipe.arms(self.options) if self.recipe.quantize(arm.options or self.options)
            )
            model = self.new_model(arm, seed) if self.folder is None else self.load_arm(arm.name, seed)
            return ledger_of(model, self.work.loaders(seed).recalibration).findings()
        except Exception:  # a network or a task that a ledger cannot be taken of: no reason to lose a finished run
            return []

    def arms(self) -> list[R]:
        """Train and measure every arm with every seed, but for those that are done already.

        Raises:
            BitdialError: the options, the data or a checkpoint is at fault, or a loss is not finite.
            RunInterrupted: stopped on request, after saving.
        """
        plan = self.recipe.arms(self.options)
        records: list[R] = []
        whole = WholeRun([self._steps_left(arm, seed) for seed in self.seeds for arm in plan])
        for seed in self.seeds:
            trained: dict[str, nn.Module] = {}
            done: dict[str, R] = {}
            for arm in plan:
                label = self._label(plan, arm, seed)
                whole.begin()
                with named(label, self.setup.how_to_resume, saved=self.folder is not None):
                    done[arm.name] = self._arm(arm, seed, plan, trained, done, label, whole)
                release_memory()
            records += done.values()
        return records

    def _steps_left(self, arm: A, seed: int) -> int | None:
        record = self.record_of(arm, seed)
        done = record is not None and self.recipe.suffices(arm.options or self.options, record)
        return 0 if done else arm.steps

    def new_model(self, arm: A, seed: int) -> nn.Module:
        """The network of an arm with the weights that a seed gives it."""
        options: Any = arm.options or self.options
        seed_everything(seed)
        how = self.recipe.quantize(options)
        return quantized(self.work.under(options).build(), None if how is None else dict(how))

    def record_of(self, arm: A, seed: int) -> R | None:
        """What an arm gave, if it was trained to its end."""
        files = self.files(arm, seed)
        if files is None or not files.record.exists():
            return None
        return self._record_type().model_validate_json(files.record.read_text(encoding="utf-8"))

    def load_arm(self, name: str, seed: int) -> nn.Module:
        """The network of an arm as its training ended.

        Raises:
            BitdialError: it was not trained to its end, or its last checkpoint is damaged.
        """
        arm = next(arm for arm in self.recipe.arms(self.options) if arm.name == name)
        files, record = self.files(arm, seed), self.record_of(arm, seed)
        if files is None or record is None:
            raise BitdialError(f"arm '{name}' with seed {seed} was not trained to its end; resume the run first")
        checkpoint = self._manager(files, arm).load_latest()
        if checkpoint.state["step"] != record.steps_taken:
            raise BitdialError(
                f"the last checkpoint in {files.folder} is damaged (step {checkpoint.state['step']} of "
                f"{record.steps_taken} is the newest sound one); remove {files.record} and resume the run"
            )
        model = self.new_model(arm, seed)
        weights = named_as(model, checkpoint.state["model_state_dict"])
        advice = "give the model and the data that they were made with"
        load_weights(model, weights, f"the checkpoints in {files.folder} do", advice)
        return model

    def saved_model(self, arm: A, seed: int) -> SavedModel:
        """The description of an arm's network, for its file."""
        options: Any = arm.options or self.options
        how = self.recipe.quantize(options)
        facts = self.work.under(options).facts()
        return SavedModel(
            recipe=self.recipe.name,
            arm=arm.name,
            seed=seed,
            quantize=None if how is None else dict(how),
            source=digest(facts["model"]) if is_place(facts.get("model")) else "",
            examples={} if self.data is None else self.data.short(),
            **facts,
        )

    def files(self, arm: A, seed: int) -> ArmFiles | None:
        """Where an arm's files are."""
        return None if self.folder is None else ArmFiles(self.folder, f"{arm.name}-seed{seed}", self.recipe.own_folders)

    def _arm(
        self,
        arm: A,
        seed: int,
        plan: Sequence[A],
        trained: dict[str, nn.Module],
        done: Mapping[str, R],
        label: str,
        whole: WholeRun,
    ) -> R:
        options: Any = arm.options or self.options
        needed_later = any(arm.name in other.before for other in plan)
        files = self.files(arm, seed)
        record = None if self._goes_back(files) else self.record_of(arm, seed)
        if record is not None and self.recipe.suffices(options, record):
            if needed_later:
                trained[arm.name] = self.load_arm(arm.name, seed)
            return record
        if record is not None:
            self._begin_followers_anew(arm, seed, plan)
        model = deepcopy(trained[arm.starts_from]) if arm.starts_from else self.new_model(arm, seed)
        self._set_aside(files)
        manager = None if files is None else self._manager(files, arm)
        log = None if files is None else self._log(plan, arm, seed)
        described = self.saved_model(arm, seed)
        setup = replace(
            self.setup,
            log=log,
            checkpoints=None if manager is None else DescribedCheckpoints(manager, model, described),
            progress=Progress(
                label,
                enabled=self.show_progress,
                label_width=max(len(self._label(plan, each, seed)) for each in plan),
                whole=whole if len(plan) * len(self.seeds) > 1 else None,
                file=self.progress,
                run=whole,
            ),
            resume=None if files is None or manager is None else self._state(files, manager),
        )
        bench = replace(self.bench(arm, seed, model, setup, trained, done), checkpoints=manager)
        seed_everything(seed, rank=0 if setup.fabric is None else setup.fabric.global_rank)
        with manager or nullcontext(), log or nullcontext():
            state = self.recipe.train(arm, bench)
            if self.progress is not None:
                self.progress.tell(at_once=True, doing="measuring")
            with watching(Measuring(setup.progress)):
                record = self.recipe.measure(arm, bench, state)
        stop = getattr(record, "early_stop", None)
        if stop is not None and self.is_first and self.show_progress:
            say(f"{label}: {stop.told()}")
        if needed_later:
            trained[arm.name] = model
        if files is not None and self.is_first:
            write_atomically(files.record, record.model_dump_json())
        if setup.fabric is not None:
            setup.fabric.barrier()
        return record

    def bench(
        self,
        arm: A,
        seed: int,
        model: nn.Module,
        setup: Setup,
        trained: Mapping[str, nn.Module] | None = None,
        done: Mapping[str, R] | None = None,
    ) -> Bench[O]:
        """What an arm with a seed is trained on."""
        options: Any = arm.options or self.options
        work = self.work.under(options)
        fabric = setup.fabric
        world, rank = (1, 0) if fabric is None else (fabric.world_size, fabric.global_rank)
        return Bench(
            options=options,
            work=work,
            seed=seed,
            model=model,
            loaders=work.loaders(seed, rank, world),
            setup=replace(setup, task=setup.task or work.task),
            trained=trained or {},
            done=done or {},
            files=self.files(arm, seed),
            saved=self.saved_model(arm, seed),
        )

    def _label(self, plan: Sequence[A], arm: A, seed: int) -> str:
        place = [f"{plan.index(arm) + 1}/{len(plan)}"] if len(plan) > 1 else []
        place += [f"seed {seed}"] if len(self.seeds) > 1 else []
        return f"{arm.name} ({', '.join(place)})" if place else arm.name

    def _log(self, plan: Sequence[A], arm: A, seed: int) -> MetricsLog:
        assert self.folder is not None
        scope: dict[str, str | int] = {self.recipe.column: arm.name, "seed": seed}
        alone = len(plan) * len(self.seeds) == 1
        copy = self.options.csv_log if isinstance(self.options, CopiedLogOptions) else None
        return MetricsLog(self.folder.path, scope={} if alone else scope, copy=copy)

    def _manager(self, files: ArmFiles, arm: A) -> CheckpointManager:
        task = self.setup.task or self.work.task
        how: dict[str, Any] = {"metric": task.metric, "higher_is_better": task.higher_is_better}
        how |= self.recipe.keeping(arm.options or self.options)
        return CheckpointManager(files.folder, prefix=files.prefix, background=True, links=True, **how)

    def _record_type(self) -> type[R]:
        return self.recipe.results.record_type  # type: ignore[return-value]

    def _state(self, files: ArmFiles, checkpoints: CheckpointManager) -> dict[str, Any] | None:
        """The state that an arm goes on from, or None for a new one. Every process comes here."""
        if self.foreign is not None and not checkpoints.checkpoints:
            if self.is_first:
                self._tell(self.foreign.notes)
                self.foreign.adopt(checkpoints)
            self.fabric.barrier()
        if self._goes_back(files):
            assert self.source.checkpoint is not None
            return checkpoints.load(self.source.checkpoint).state
        if not checkpoints.checkpoints:
            return None
        loaded = checkpoints.load_latest()
        self._tell(loaded.notes)
        return loaded.state

    def _goes_back(self, files: ArmFiles | None) -> bool:
        """Whether an arm goes on from a checkpoint of its own that the user chose."""
        chosen = self.source.checkpoint
        return files is not None and self.source.run is not None and chosen is not None and files.holds(chosen)

    def _set_aside(self, files: ArmFiles | None) -> None:
        if files is None or self.source.checkpoint is None or not self._goes_back(files):
            return
        if self.is_first:
            folder = set_aside_newer(files, self.source.checkpoint)
            if folder is not None:
                self._tell([f"newer checkpoints were moved to {folder}"])
        self.fabric.barrier()

    def _begin_followers_anew(self, arm: A, seed: int, plan: Sequence[A]) -> None:
        """Before an arm goes on, forget what those that build on it gave: they would be of the arm as it was."""
        changed = {arm.name}
        for other in plan:
            files = self.files(other, seed)
            if not changed & {*other.before, *other.follows} or files is None:
                continue
            changed.add(other.name)
            if self.is_first:
                files.record.unlink(missing_ok=True)
                folder = set_aside_newer(files, None)
                if folder is not None:
                    self._tell([f"{other.name} begins anew, as {arm.name} goes on; it was moved to {folder}"])
        if self.setup.fabric is not None:
            self.setup.fabric.barrier()

    def _tell(self, notes: Sequence[str]) -> None:
        for note in notes if self.is_first else ():
            say(f"resume: {note}")


def release_memory() -> None:
    """Give cached memory back between two arms, never inside one."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def say(text: str) -> None:
    """Tell something of the run on standard error, as it is."""
    terminal(stderr=True).print(text, soft_wrap=True)


def seeds_of(options: Any) -> list[int]:
    """The seeds of a run."""
    return list(range(options.seed, options.seed + options.seeds))
