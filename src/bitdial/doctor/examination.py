"""The whole examination, topic by topic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bitdial.doctor.findings import Finding
from bitdial.doctor.machine import accelerators, machine, optional_packages, software
from bitdial.doctor.trials import arithmetic, compilation, devices, native_kernels


def examine(folder: Path | None = None, *, compile: bool = True) -> Iterator[Finding]:
    """Yield what this machine can do; `folder` is where runs would be written, by default the current one.

    With `compile` also try what is compiled here (torch.compile, the native kernels), which takes some seconds.
    """
    yield from machine(folder or Path.cwd())
    yield from software()
    yield from accelerators()
    yield from arithmetic()
    if compile:
        for device in devices():
            yield compilation(device)
        yield native_kernels()
    yield from optional_packages()
