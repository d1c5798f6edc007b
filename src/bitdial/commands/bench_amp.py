"""The subject ``bitdial bench amp``: training steps in float32 and in a narrow format."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bitdial.commands.workload import WorkloadConfig, check_workload
from bitdial.configuration import load_config
from bitdial.lazy import loading_torch


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
    """Measure and print a table; return the exit status."""
    options = load_config(BenchAmpConfig, {}, argv, prog="bitdial bench amp")
    check_workload(options)
    loading_torch()
    from bitdial.commands.bench_amp_run import bench_amp

    return bench_amp(options)
