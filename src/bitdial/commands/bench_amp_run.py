"""What ``bitdial bench amp`` does: training steps are timed, and shown side by side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bitdial.commands.workload import Workload, workload_of
from bitdial.errors import BitdialError
from bitdial.evaluation import describe_machine
from bitdial.terminal import terminal
from bitdial.training.mixed_precision import MixedPrecisionBenchmark, benchmark_mixed_precision
from bitdial.training.step.memory import is_out_of_memory

if TYPE_CHECKING:
    from bitdial.commands.bench_amp import BenchAmpConfig


def bench_amp(options: BenchAmpConfig) -> int:
    """Measure and print a table; return the exit status."""
    work, result = measured(options)
    facts = describe_machine().model_dump()
    if options.json_output:
        print(json.dumps({"workload": work.text, **result.to_dict(), "machine": facts}, indent=2))
    else:
        _print(work, result, facts)
    return 0


def measured(options: BenchAmpConfig) -> tuple[Workload, MixedPrecisionBenchmark]:
    """Measure what the options name.

    Raises:
        BitdialError: a network, a data set or a device that there is not; memory that runs out.
    """
    work = workload_of(options)
    return work, _measure(work, None if options.dtype == "auto" else options.dtype, options.iterations)


def _measure(work: Workload, dtype: str | None, iterations: int) -> MixedPrecisionBenchmark:
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        batch = work.images(work.batch_size), torch.randint(work.classes, (work.batch_size,))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise BitdialError(f"memory ran out with a batch of {work.batch_size}; lower --batch_size") from error
    with Progress(*columns, console=terminal(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=iterations)
        return benchmark_mixed_precision(
            work.network,
            batch,
            iterations,
            dtype=dtype,
            device=work.device,
            on_round=lambda done: progress.update(task, completed=done),
        )


def _print(work: Workload, result: MixedPrecisionBenchmark, facts: dict[str, Any]) -> None:
    console = terminal()
    place = ", ".join(facts["accelerators"]) if result.device.startswith("cuda") else facts["processor"]
    count = torch.get_num_threads()
    threads = "" if result.device != "cpu" else f", {count} thread{'s' * (count > 1)}"
    console.print(f"{work.text}, batch {result.batch_size}, on {result.device}: {place}{threads}")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("format")
    for heading in ("step, ms", "quartiles", "speedup", "memory, MB"):
        table.add_column(heading, justify="right")
    plain = result.rows[0]
    for row in result.rows:
        low, high = (1e3 * each for each in row.quartiles)
        # the narrow format's speedup is the median over the rounds, as in the verdict
        speedup = result.speedup if row is result.rows[1] else plain.seconds / row.seconds
        table.add_row(
            row.name,
            f"{1e3 * row.seconds:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{speedup:.2f}",
            f"{row.memory_bytes / 1e6:.1f}",
        )
    console.print(table)
    console.print(f"Medians of {result.iterations} interleaved steps on random images; memory: {result.memory_kind}.\n")
    console.print(result.verdict, style="bold" if result.pays else "yellow")
