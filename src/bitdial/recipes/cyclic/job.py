"""The job behind ``bitdial train cyclic``: data, network, run folder, the three phases, and everything that is left."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import nn

from bitdial.configuration import to_yaml
from bitdial.data import ImageDataset, load_dataset, make_loader
from bitdial.errors import BitdialError
from bitdial.evaluation import CyclicResults, assemble
from bitdial.evaluation.plots import save_plots
from bitdial.evaluation.report import write_report
from bitdial.evaluation.table import comparison_table
from bitdial.layers import BitDial, skipped_layers
from bitdial.models import MODELS, build_model
from bitdial.recipes.cyclic.arms import own_bits, plan_arms
from bitdial.recipes.cyclic.config import CyclicConfig, check_model_name
from bitdial.recipes.cyclic.experiment import Experiment
from bitdial.recipes.cyclic.phase import Loaders, PhaseSetup
from bitdial.training import RunFolder, make_fabric, preserved_random_state

if TYPE_CHECKING:
    from lightning.fabric import Fabric

RESULTS_FILE = "cyclic_precision_results.json"
BEST_MODEL_FILE = "cyclic_best_model.pt"
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Job:
    """A run of the recipe.

    Attributes:
        config: all options.
        fabric: launched.
        data: the data set, on the device that trains.
        run: the run's folder.
    """

    config: CyclicConfig
    fabric: Fabric
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
        check_model_name(config.model, MODELS)
        precision = config.precision
        if config.use_amp and precision == "32-true":
            precision = "16-mixed" if torch.cuda.is_available() else "bf16-mixed"
        fabric = make_fabric(config.devices, config.num_nodes, config.strategy, precision)
        data = load_dataset(config.dataset, config.data_path)
        trial = _experiment(config, data, None)
        with preserved_random_state():
            trial.new_model(config.seed)  # refuses layer patterns that match nothing
        if config.batch_size % (fabric.world_size or 1):
            raise BitdialError(
                f"batch_size must divide by the {fabric.world_size} processes, got {config.batch_size}; "
                f"{config.batch_size // fabric.world_size * fabric.world_size or fabric.world_size} would do"
            )
        fabric.launch()
        root = config.experiment.results_dir or "runs"
        plain = _plain(config)
        run = resumed or RunFolder.create("cyclic", plain, run_dir=config.run_dir, root=root, fabric=fabric)
        fabric.barrier()
        return cls(config, fabric, data.to(fabric.device), run)

    def experiment(self) -> Experiment:
        """The three phases in this run's folder."""
        return _experiment(self.config, self.data, self)

    def finish(self, experiment: Experiment, results: CyclicResults, console: Console) -> None:
        """Write results, best model, plots and report, and print the table; from the first process only."""
        if not self.fabric.is_global_zero:
            return
        results.save(self.run.path / RESULTS_FILE)
        results.save(self.run.results)
        self._save_best(experiment, results)
        if self.config.experiment.plot_metrics:
            save_plots(results, self.run.plots)
        write_report(results, self.run.report)
        console.print(comparison_table(results.comparison, width=console.width))
        console.print(f"Recommended: {results.comparison.reason}", highlight=False)
        console.print(f"Report: {self.run.report}", highlight=False, soft_wrap=True)

    def _save_best(self, experiment: Experiment, results: CyclicResults) -> None:
        """Save the recommended arm's model (first seed), its dial at the width that it ships at."""
        name = results.comparison.recommended
        arms = plan_arms(experiment.model, experiment.static, experiment.experiment)
        arm = next(arm for arm in arms if arm.name == name)
        model = experiment.load_arm(name, experiment.seeds[0])
        dial = BitDial(model)
        dial.set(own_bits(arm, len(dial)))
        content = {
            "schema_version": 1,
            "arm": name,
            "seed": experiment.seeds[0],
            "bits": dict(zip(dial.names, dial.weights, strict=True)),
            "skipped_layers": skipped_layers(model),
            "model": experiment.model.model_dump(mode="json"),
            "gradient_bits": self.config.cyclic.gradient_bits,
            "num_classes": self.data.num_classes,
            "in_channels": self.data.in_channels,
            "image_size": self.data.image_size,
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "class_names": list(self.data.class_names),
            "model_state_dict": model.state_dict(),
        }
        save_whole(content, self.run.path / BEST_MODEL_FILE)


def save_whole(content: dict[str, Any], path: Path) -> None:
    """``torch.save`` that leaves either the whole new file or the old one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "wb") as file:
        torch.save(content, file)
    os.chmod(name, 0o644)
    os.replace(name, path)


def run_job(config: CyclicConfig, command: str, *, resumed: RunFolder | None = None) -> None:
    """Do the whole job and print the table.

    Args:
        config: all options.
        command: the command line, for report and results.
        resumed: the folder of the run to go on with.

    Raises:
        BitdialError: see `Job.prepare`.
        RunInterrupted: stopped on request, after saving.
    """
    job = Job.prepare(config, resumed=resumed)
    experiment = job.experiment()
    arms = experiment.run()
    notes = _notes(experiment, job)
    results = assemble(
        arms,
        config=_plain(config),
        command=command,
        experiment=config.experiment.experiment_name,
        notes=notes,
        analyze_cycles=config.experiment.analyze_cycles,
    )
    job.finish(experiment, results, Console())


def _experiment(config: CyclicConfig, data: ImageDataset, job: Job | None) -> Experiment:
    """The experiment of a configuration; without a job it has no folder and serves to check things."""
    fabric = job.fabric if job is not None else None

    def make_model() -> nn.Module:
        return build_model(
            config.model, num_classes=data.num_classes, in_channels=data.in_channels, image_size=data.image_size
        )

    world, rank = (1, 0) if fabric is None else (fabric.world_size, fabric.global_rank)

    def make_loaders(seed: int) -> Loaders:
        def training(augment: str) -> Any:
            return make_loader(
                data.train,
                config.batch_size // world,
                train=True,
                seed=seed,
                rank=rank if augment != "none" else 0,
                world_size=world if augment != "none" else 1,
                augment=augment,
                workers=config.workers,
            )

        return Loaders(
            train=training("standard"),
            test=make_loader(data.test, EVALUATION_BATCH, train=False, workers=config.workers),
            recalibration=training("none"),
        )

    batches = max(1, len(data.train) // config.batch_size)
    how_to_resume = "" if job is None else f"`bitdial train cyclic --resume {job.run.path}`"
    return Experiment(
        make_model=make_model,
        make_loaders=make_loaders,
        model=config.model_config_of_run,
        training=config.training(batches),
        precision=config.cyclic,
        static=config.static,
        experiment=config.experiment,
        seeds=range(config.seed, config.seed + config.seeds),
        setup=PhaseSetup(fabric=fabric, how_to_resume=how_to_resume, compile=config.compile),
        folder=None if job is None else job.run.path,
        show_progress=fabric is not None and fabric.is_global_zero,
    )


def _plain(config: CyclicConfig) -> dict[str, Any]:
    import yaml

    loaded: dict[str, Any] = yaml.safe_load(to_yaml(config))
    return loaded


def _notes(experiment: Experiment, job: Job) -> list[str]:
    """What a reader of the report should know about this run."""
    skipped = skipped_layers(experiment.new_model(experiment.seeds[0]))
    listed = "; ".join(f"{name} ({reason})" for name, reason in skipped.items())
    return [
        f"Data: {job.data.name}, {len(job.data.train)} training and {len(job.data.test)} test images. What is measured "
        "are the weights at the end of training; none were chosen by looking at test data.",
        f"Unquantized layers, counted at 32 bits: {listed or 'none'}.",
        "matched_cost is a static run at the default width, stopped when its BitOps reach those of the cyclic phase.",
    ]


def newest_run(root: Path, recipe: str) -> RunFolder:
    """The run folder with the highest number.

    Raises:
        BitdialError: there is none.
    """
    numbered: Sequence[tuple[int, Path]] = sorted(
        (int(path.name.rpartition("-")[2]), path)
        for path in (root.glob(f"{recipe}-*") if root.is_dir() else ())
        if path.name.rpartition("-")[2].isdigit() and (path / "config.yaml").is_file()
    )
    if not numbered:
        raise BitdialError(f"expected a run to resume under {root}/, got none; start one, or give --resume FOLDER")
    return RunFolder.open(numbered[-1][1])
