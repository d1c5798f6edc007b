"""The command ``bitdial doctor``: what this machine can do."""

from __future__ import annotations

import json

from bitdial.configuration import Config, load_config
from bitdial.lazy import loading_torch


class DoctorConfig(Config):
    """Show what this machine can do, found out by trying."""

    compile: bool = True
    """Try torch.compile and the native kernels too, which takes some seconds."""
    json_output: bool = False
    """Print JSON instead of a table (also --json)."""

    aliases = {"json": "json_output"}


def run(argv: list[str]) -> int:
    """Examine this machine and print the findings; return the exit status."""
    options = load_config(DoctorConfig, {}, argv, prog="bitdial doctor")
    loading_torch()
    from bitdial.doctor import examine
    from bitdial.doctor.findings import as_json, print_table
    from bitdial.terminal import terminal

    with terminal(stderr=True).status("Trying what this machine can do"):
        findings = list(examine(compile=options.compile))
    if options.json_output:
        print(json.dumps(as_json(findings), indent=2))
    else:
        print_table(findings, terminal())
    return 0
