"""The job behind ``bitdial train ternary``: check everything, train every network, leave results and report."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from torch import nn

from bitdial.data import load_dataset
from bitdial.errors import BitdialError, RunInterrupted
from bitdial.evaluation import describe_machine
from bitdial.evaluation.files import write_atomically
from bitdial.recipes.assembly import check_model_name, fabric_for, named, told_once
from bitdial.recipes.precision import check_layers, mixed_precision_of, tell_if_slow
from bitdial.recipes.resuming import plain, tell_folder
from bitdial.recipes.ternary.checkpoints import Foreign, Source, manager_of, set_aside_newer
from bitdial.recipes.ternary.config import TernaryConfig
from bitdial.recipes.ternary.finish import finish_network
from bitdial.recipes.ternary.finished import finished_network, finished_results, result_file, show
from bitdial.recipes.ternary.loaders import Splits, plain_batches
from bitdial.recipes.ternary.log import CopiedLog, check_copy
from bitdial.recipes.ternary.network import Network
from bitdial.recipes.ternary.notes import notes_on
from bitdial.recipes.ternary.rehearsal import rehearse_network
from bitdial.recipes.ternary.report import render_plots, save_plots, write_report
from bitdial.recipes.ternary.results import NetworkResult, TernaryResults, summarise
from bitdial.recipes.ternary.teacher import load_teacher
from bitdial.recipes.ternary.train import Setup, optimizer_for, train_network
from bitdial.training import (
    CheckpointManager,
    MixedPrecisionConfig,
    Progress,
    RunFolder,
    TrainingDiverged,
    preserved_random_state,
    seed_everything,
)

if TYPE_CHECKING:
    from lightning.fabric import Fabric

NEW = Source(None, None)


def run_job(config: TernaryConfig, command: str, source: Source = NEW) -> None:
    """Do the whole job and print the table.

    Args:
        config: all options.
        command: the command line that makes the run, for report and results.
        source: what to go on from.

    Raises:
        BitdialError: see `Job.prepare`.
        RunInterrupted: stopped on request, after saving.
    """
    if source.run is not None and source.checkpoint is None:
        finished = finished_results(config, source.run)
        if finished is not None:
            show(finished, source.run, Console())
            return
    job = Job.prepare(config, source)
    if job.fabric.is_global_zero:
        tell_folder(job.run, resumed=source.run is not None)
    with told_once(job.fabric, RunInterrupted, TrainingDiverged):
        results = job.train(command)
    if results is not None:
        show(results, job.run, Console())


@dataclass(frozen=True)
class Job:
    """A run of the recipe.

    Attributes:
        config: all options.
        fabric: launched.
        precision: the floating-point format.
        splits: the images, on the device that trains.
        run: the run's folder.
        source: what the run goes on from.
        foreign: a state from a file of no run, or None.
        teachers: experiment -> the unquantized network that it learns from.
    """

    config: TernaryConfig
    fabric: Fabric
    precision: MixedPrecisionConfig
    splits: Splits
    run: RunFolder
    source: Source
    foreign: Foreign | None
    teachers: dict[str, nn.Module]

    @classmethod
    def prepare(cls, config: TernaryConfig, source: Source = NEW) -> Job:
        """Check everything that can be checked, then make the run folder: what is refused leaves nothing behind.

        Raises:
            BitdialError: an option, the data, a checkpoint, the teacher, or the place of the run folder is at fault.
        """
        experiments = config.each_experiment()
        for each in experiments.values():
            check_model_name(each.model)
        if source.run is None:
            check_copy(config.csv_log)
        fabric = fabric_for(config)
        precision = mixed_precision_of(config, fabric.device)
        splits = Splits.of(config, load_dataset(config.dataset, config.data_path))
        foreign_file = source.checkpoint if source.run is None else None
        if foreign_file is not None and config.several:
            raise BitdialError(
                f"resume {foreign_file} goes on with one network, got several; give --start_from instead"
            )
        foreign = None
        with preserved_random_state():
            for each in experiments.values():
                foreign = rehearse_network(each, splits, foreign_file)
                network = Network.of(each, splits.dataset).build()
                check_layers(network, precision, fabric, optimizer_for(network, each))
            teachers = {
                name: load_teacher(each.teacher, splits.dataset)
                for name, each in experiments.items()
                if each.teacher is not None
            }
        fabric.launch()
        tell_if_slow(precision, fabric)
        with told_once(fabric, BitdialError):
            run = source.run or RunFolder.create("ternary", plain(config), run_dir=config.run_dir, fabric=fabric)
        if source.run is not None and fabric.is_global_zero:  # it may be longer now
            write_atomically(run.config, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))
        fabric.barrier()
        return cls(config, fabric, precision, splits.to(fabric.device), run, source, foreign, teachers)

    def train(self, command: str) -> TernaryResults | None:
        """Train what is not trained yet; the first process returns the results after writing plots and report."""
        networks: list[NetworkResult] = []
        if self.fabric.is_global_zero:
            self.run.results.unlink(missing_ok=True)  # where it is, the run is finished
        for label, experiment, seed, config in self._networks():
            again = self._goes_back(f"{experiment}-seed{seed}")
            result = None if again else finished_network(self.run, experiment, seed, config)
            if result is None:
                with named(label, self._how_to_resume(), saved=True):
                    result = self._train_one(label, experiment, seed, config)
            if result is not None:
                networks.append(result)
        if not self.fabric.is_global_zero:
            return None
        summaries, reference = summarise(networks)
        results = TernaryResults(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            config=plain(self.config),
            machine=describe_machine(),
            networks=networks,
            summaries=summaries,
            reference=reference,
            notes=notes_on(self.config, self.splits, networks, self.precision.format),
        )
        images = render_plots(results)
        save_plots(images, self.run.plots)
        write_report(results, images, self.run.report)
        results.save(self.run.results)
        return results

    def _networks(self) -> Iterator[tuple[str, str, int, TernaryConfig]]:
        """Every network of the run: what to call it, its experiment, its seed, its options."""
        config, experiments = self.config, self.config.each_experiment()
        total = len(experiments) * config.seeds
        number = 0
        for seed in range(config.seed, config.seed + config.seeds):
            for name, each in experiments.items():
                number += 1
                place = f" ({number}/{total}, seed {seed})" if config.several else ""
                yield f"{name}{place}", name, seed, each

    def _train_one(self, label: str, experiment: str, seed: int, config: TernaryConfig) -> NetworkResult | None:
        fabric, key = self.fabric, f"{experiment}-seed{seed}"
        seed_everything(seed)
        model = Network.of(config, self.splits.dataset).build()
        if config.start_from is not None:
            start = Foreign.read(config.start_from, 1, weights_only=True)
            model.load_state_dict(start.state["model_state_dict"])
        seed_everything(seed, rank=fabric.global_rank)
        self._set_aside(key)
        scope: dict[str, str | int] = {"experiment": experiment, "seed": seed} if self.config.several else {}
        validation = self.splits.validation
        with (
            manager_of(self.run, config, key) as checkpoints,
            CopiedLog(self.run.path, scope=scope, copy=self.config.csv_log) as log,
        ):
            state = train_network(
                model,
                config,
                self.splits.training(config, seed, fabric),
                None if validation is None else plain_batches(validation, config),
                Setup(fabric, self.precision, log, Progress(label), checkpoints, self._how_to_resume()),
                teacher=self.teachers.get(experiment),
                resume=self._state(checkpoints, key),
            )
            result = None
            if fabric.is_global_zero:
                result = finish_network(experiment, seed, config, state, checkpoints, self.splits, self.run)
                write_atomically(result_file(self.run, key), result.model_dump_json())
        fabric.barrier()
        return result

    def _state(self, checkpoints: CheckpointManager, key: str) -> dict[str, Any] | None:
        """The state that a network goes on from, or None for a new one. Every process comes here."""
        if self.foreign is not None and not checkpoints.checkpoints:
            if self.fabric.is_global_zero:
                self._tell(self.foreign.notes)
                self.foreign.adopt(checkpoints)
            self.fabric.barrier()
        if self._goes_back(key):
            assert self.source.checkpoint is not None
            return checkpoints.load(self.source.checkpoint).state
        if not checkpoints.checkpoints:
            return None
        loaded = checkpoints.load_latest()
        self._tell(loaded.notes)
        return loaded.state

    def _goes_back(self, key: str) -> bool:
        """Whether a network goes on from a checkpoint of its own that the user chose."""
        chosen = self.source.checkpoint
        return self.source.run is not None and chosen is not None and chosen.name.startswith(f"{key}-")

    def _set_aside(self, key: str) -> None:
        if self._goes_back(key) and self.source.checkpoint is not None:
            if self.fabric.is_global_zero:
                folder = set_aside_newer(self.run, self.source.checkpoint, key)
                if folder is not None:
                    self._tell([f"newer checkpoints were moved to {folder}"])
            self.fabric.barrier()

    def _tell(self, notes: list[str]) -> None:
        if self.fabric.is_global_zero:
            for note in notes:
                Console(stderr=True).print(f"resume: {note}", highlight=False, markup=False, soft_wrap=True)

    def _how_to_resume(self) -> str:
        return f"`bitdial train ternary --resume {shlex.quote(str(self.run.path))}`"
