"""The job behind ``bitdial train cyclic``: data, network, run folder, the three phases, and everything that is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml
from rich.console import Console

from bitdial.data import ImageDataset, load_dataset
from bitdial.errors import BitdialError, RunInterrupted
from bitdial.evaluation import CyclicResults
from bitdial.evaluation.files import write_atomically
from bitdial.evaluation.table import comparison_table
from bitdial.layers import skipped_layers
from bitdial.recipes.assembly import check_model_name, fabric_for, told_once
from bitdial.recipes.cyclic.assembly import build_experiment, precision_for
from bitdial.recipes.cyclic.best_model import save_best_model
from bitdial.recipes.cyclic.collect import collect_results
from bitdial.recipes.cyclic.config import CyclicConfig
from bitdial.recipes.cyclic.experiment import Experiment
from bitdial.recipes.cyclic.report import render, save_plots, write_report
from bitdial.recipes.precision import check_layers, tell_if_slow
from bitdial.recipes.resuming import plain, tell_folder
from bitdial.training import MixedPrecisionConfig, RunFolder, TrainingDiverged, preserved_random_state

if TYPE_CHECKING:
    from lightning.fabric import Fabric

RESULTS_FILE = "cyclic_precision_results.json"


def run_job(config: CyclicConfig, command: str, *, resumed: RunFolder | None = None) -> None:
    """Do the whole job and print the table.

    Args:
        config: all options.
        command: the command line that makes the run, for report and results.
        resumed: the folder of the run to go on with.

    Raises:
        BitdialError: see `Job.prepare`.
        RunInterrupted: stopped on request, after saving.
    """
    finished = None if resumed is None else _finished(config, resumed)
    if resumed is not None and finished is not None:
        show(finished, resumed, Console())
        return
    job = Job.prepare(config, resumed=resumed)
    if job.fabric.is_global_zero:
        tell_folder(job.run, resumed=resumed is not None)
    with told_once(job.fabric, RunInterrupted, TrainingDiverged):
        results = job.train(command)
    if job.fabric.is_global_zero:
        show(results, job.run, Console())


@dataclass(frozen=True)
class Job:
    """A run of the recipe.

    Attributes:
        config: all options.
        fabric: launched.
        precision: the floating-point format.
        data: the data set, on the device that trains.
        run: the run's folder.
    """

    config: CyclicConfig
    fabric: Fabric
    precision: MixedPrecisionConfig
    data: ImageDataset
    run: RunFolder

    @classmethod
    def prepare(cls, config: CyclicConfig, *, resumed: RunFolder | None = None) -> Job:
        """Check everything that can be checked, then make the run folder: what is refused leaves nothing behind.

        Args:
            config: all options.
            resumed: the folder of the run to go on with; None starts a new one.

        Raises:
            BitdialError: an option, the data, or the place of the run folder is at fault.
        """
        check_model_name(config.model)
        fabric = fabric_for(config)
        precision = precision_for(config, fabric.device)
        data = load_dataset(config.dataset, config.data_path)
        with preserved_random_state():
            experiment = build_experiment(config, data)
            experiment.rehearse()
            check_layers(experiment.new_model(config.seed), precision, fabric)
        fabric.launch()
        tell_if_slow(precision, fabric)
        root = config.experiment.results_dir or "runs"
        with told_once(fabric, BitdialError):
            run = resumed or RunFolder.create("cyclic", plain(config), run_dir=config.run_dir, root=root, fabric=fabric)
        if resumed is not None and fabric.is_global_zero:  # it may have more seeds now
            write_atomically(run.config, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))
        fabric.barrier()
        return cls(config, fabric, precision, data.to(fabric.device), run)

    def train(self, command: str) -> CyclicResults:
        """Go through the three phases; the first process leaves results, best model, plots and report."""
        config = self.config
        experiment = build_experiment(
            config, self.data, fabric=self.fabric, precision=self.precision, folder=self.run.path
        )
        results = collect_results(
            experiment.run(),
            config=plain(config),
            command=command,
            experiment=config.experiment.experiment_name,
            notes=self._notes(experiment),
            analyze_cycles=config.experiment.analyze_cycles,
        )
        if self.fabric.is_global_zero:
            save_best_model(experiment, results, self.data, self.run.path)
            images = render(results)  # the report shows them in any case
            if config.experiment.plot_metrics:
                save_plots(results, self.run.plots, images=images)
            write_report(results, self.run.report, images=images)
            results.save(self.run.path / RESULTS_FILE)
            results.save(self.run.results)  # the last file: where it is, the run is finished
        return results

    def _notes(self, experiment: Experiment) -> list[str]:
        """What a reader of the report should know about this run."""
        skipped = skipped_layers(experiment.new_model(experiment.seeds[0]))
        listed = "; ".join(f"{name} ({reason})" for name, reason in skipped.items())
        notes = [
            f"Data: {self.data.name}, {len(self.data.train)} training and {len(self.data.test)} test images. What is "
            "measured are the weights at the end of training; none were chosen by looking at test data.",
            f"Unquantized layers, counted at 32 bits: {listed or 'none'}.",
            "matched_cost is a static run at the default width, stopped when its BitOps reach those of the cyclic "
            "phase.",
        ]
        if experiment.training.distillation_alpha > 0:
            notes.append("BitOps do not count the teacher's forward passes; seconds do.")
        return notes


def show(results: CyclicResults, run: RunFolder, console: Console) -> None:
    """Print the table, the recommendation, and where the report is."""
    console.print(comparison_table(results.comparison, width=console.width))
    console.print(f"\n{results.comparison.reason}\n", highlight=False)
    console.print(f"Report: {run.report}", highlight=False, soft_wrap=True)


def _finished(config: CyclicConfig, run: RunFolder) -> CyclicResults | None:
    """The results of a run that has all it was asked for."""
    if not run.results.exists():
        return None
    results = CyclicResults.load(run.results)
    return results if {arm.seed for arm in results.arms} == {config.seed + i for i in range(config.seeds)} else None
