"""What of a run is finished already, and how its results are shown."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from bitdial.recipes.ternary.config import TernaryConfig
from bitdial.recipes.ternary.finish import asked, network_file
from bitdial.recipes.ternary.results import NetworkResult, TernaryResults
from bitdial.recipes.ternary.table import results_table, sizes_text
from bitdial.training import RunFolder


def result_file(run: RunFolder, key: str) -> Path:
    """Where the result of a finished network is kept."""
    return network_file(run, key).with_suffix(".json")


def finished_network(run: RunFolder, experiment: str, seed: int, config: TernaryConfig) -> NetworkResult | None:
    """What a network gave, if it was trained as long as is asked for now."""
    file = result_file(run, f"{experiment}-seed{seed}")
    if not file.exists():
        return None
    result = NetworkResult.model_validate_json(file.read_text(encoding="utf-8"))
    return result if result.asked == asked(config) else None


def finished_results(config: TernaryConfig, run: RunFolder) -> TernaryResults | None:
    """The results of a run that has all it is asked for."""
    if not run.results.exists():
        return None
    results = TernaryResults.load(run.results)
    seeds = range(config.seed, config.seed + config.seeds)
    everything = all(
        finished_network(run, name, seed, each) is not None
        for name, each in config.each_experiment().items()
        for seed in seeds
    )
    return results if everything else None


def show(results: TernaryResults, run: RunFolder, console: Console) -> None:
    """Print the table, the sizes, and where the report is."""
    console.print(results_table(results, width=console.width))
    for line in sizes_text(results, run.path):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"Report: {run.report}", highlight=False, soft_wrap=True)
