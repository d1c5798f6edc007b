"""The whole examination, topic by topic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from bitdial.doctor.arithmetic import arithmetic
from bitdial.doctor.compilation import compilation, native_kernels
from bitdial.doctor.findings import Finding
from bitdial.doctor.machine import accelerators, machine, optional_packages, software


def examine(folder: Path | None = None, *, compile: bool = True) -> Iterator[Finding]:
    """Yield what this machine can do.

    Args:
        folder: Where runs would be written; default: the current folder.
        compile: Also try what is compiled here (torch.compile, the native kernels), which takes some seconds.
    """
    yield from machine(folder or Path.cwd())
    yield from software()
    yield from accelerators()
    yield from arithmetic()
    if compile:
        for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
            yield compilation(device)
        yield native_kernels()
    yield from optional_packages()
