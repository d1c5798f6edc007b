"""The command ``bitdial bench SUBJECT``: measure on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bitdial.commands.workload import Workload, WorkloadConfig, workload_of
from bitdial.configuration import load_config
from bitdial.errors import BitdialError, suggest
from bitdial.evaluation import describe_machine
from bitdial.terminal import terminal
from bitdial.training.mixed_precision import MixedPrecisionBenchmark, benchmark_mixed_precision
from bitdial.training.step.memory import is_out_of_memory

PROG = "bitdial bench"


class BenchAmpConfig(WorkloadConfig):
    """Measure training steps in float32 and in mixed precision, interleaved, on random images.

    A step is forward pass, cross-entropy, backward pass and SGD, with a loss scale in float16.
    """

    dtype: Literal["auto", "bfloat16", "float16", "float8"] = "auto"
    """The narrow format; auto: the one that the device is better at."""

    iterations: int = Field(20, ge=1)
    """Timed steps in each format, after three to warm up."""

    json_output: bool = False
    """Print JSON instead of a table (also --json)."""

    aliases = {"json": "json_output"}


def run(argv: list[str]) -> int:
    """Find the subject and measure it; return the exit status."""
    known = ", ".join(SUBJECTS)
    if not argv:
        raise BitdialError(f"expected what to measure, got nothing; there are: {known}; e.g. `{PROG} amp`")
    subject, *rest = argv
    if subject in ("-h", "--help"):
        print(_help())
        return 0
    if subject.startswith("-"):
        raise BitdialError(f"expected what to measure before the flags, got '{subject}'; e.g. `{PROG} amp {subject}`")
    if subject not in SUBJECTS:
        hint = suggest(subject, SUBJECTS)
        raise BitdialError(f"expected what to measure, got '{subject}'; there are: {known}{hint}")
    return SUBJECTS[subject][0](rest)


def _amp(argv: list[str]) -> int:
    options = load_config(BenchAmpConfig, {}, argv, prog=f"{PROG} amp")
    work = workload_of(options)
    result = _measure(work, None if options.dtype == "auto" else options.dtype, options.iterations)
    facts = describe_machine().model_dump()
    if options.json_output:
        print(json.dumps({"workload": work.text, **result.to_dict(), "machine": facts}, indent=2))
    else:
        _print(work, result, facts)
    return 0


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


SUBJECTS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "amp": (_amp, "mixed precision: training steps in float32 and in a narrow format"),
}
"""What can be measured -> the function that does, called with the words after it, and a line of help."""


def _help() -> str:
    subjects = "\n".join(f"  {name:<10} {summary}" for name, (_, summary) in SUBJECTS.items())
    return (
        f"usage: {PROG} SUBJECT [--flag value ...]\n\nMeasure on this machine.\n\nsubjects:\n{subjects}\n\n"
        f"`{PROG} SUBJECT --help` lists its flags."
    )
