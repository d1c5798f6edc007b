"""The command ``bitdial recommend``: would mixed precision pay here, why, and with which settings."""

from __future__ import annotations

from pydantic import Field

from bitdial.commands.workload import WorkloadConfig, check_workload
from bitdial.configuration import load_config
from bitdial.lazy import loading_torch

PROG = "bitdial recommend"


class RecommendConfig(WorkloadConfig):
    """Say whether mixed precision would pay for a network on this machine, and with which settings.

    A rule of thumb about size, batch, memory and the formats that the device has; `bitdial bench amp` measures.
    """

    available_memory: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Memory in GB to count with; by default what is free on the device now."""

    json_output: bool = False
    """Print JSON instead of text (also --json)."""

    aliases = {"json": "json_output"}


def run(argv: list[str]) -> int:
    """Print decision, reasons, settings and this machine's facts; return the exit status."""
    options = load_config(RecommendConfig, {}, argv, prog=PROG)
    check_workload(options)
    loading_torch()
    from bitdial.commands.recommend_run import recommend

    return recommend(options)
