"""``bitdial doctor``: the whole examination, topic by topic."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from bitdial.doctor.findings import Finding, as_json, print_table
from bitdial.errors import BitdialError, suggest
from bitdial.lazy import loading_torch

_FLAGS = {
    "--json": "print JSON instead of a table",
    "--no-compile": "leave out torch.compile and the native kernels, whose trial takes some seconds",
}


def examine(folder: Path | None = None, *, compile: bool = True) -> Iterator[Finding]:
    """Yield what this machine can do; `folder` is where runs would be written, by default the current one.

    With `compile` also try what is compiled here (torch.compile, the native kernels), which takes some seconds.
    """
    from bitdial.doctor.machine import accelerators, machine, optional_packages, software
    from bitdial.doctor.trials import arithmetic, compilation, devices, native_kernels

    yield from machine(folder or Path.cwd())
    yield from software()
    yield from accelerators()
    yield from arithmetic()
    if compile:
        for device in devices():
            yield compilation(device)
        yield native_kernels()
    yield from optional_packages()


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one sentence, no usage text."""

    def error(self, message: str) -> NoReturn:
        raise BitdialError(f"{message}; see `{self.prog} --help`")


def run(argv: list[str]) -> int:
    """Examine this machine and print the findings."""
    parser = _Parser(prog="bitdial doctor", description="Show what this machine can do.", allow_abbrev=False)
    for flag, text in _FLAGS.items():
        parser.add_argument(flag, action="store_true", help=text)
    options, unknown = parser.parse_known_args([word.replace("_", "-") for word in argv])
    if unknown:
        hint = suggest(unknown[0], _FLAGS) or "; see `bitdial doctor --help`"
        raise BitdialError(f"unknown flag '{unknown[0]}'{hint}")
    loading_torch()
    from bitdial.terminal import terminal

    console = terminal(stderr=True)
    with console.status("Trying what this machine can do"):
        findings = list(examine(compile=not options.no_compile))
    if options.json:
        print(json.dumps(as_json(findings), indent=2))
    else:
        print_table(findings, terminal())
    return 0
