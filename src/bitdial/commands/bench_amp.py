"""The subject ``bitdial bench amp``: training steps in float32 and in a narrow format."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bitdial.commands.workload import WorkloadConfig


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
