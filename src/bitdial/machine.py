"""Facts about the machine: what its system, processor, memory and GPUs are, and which packages are installed.

The doctor, the record of a run and the benchmarks each show these in words of their own. Nothing here tells whose
machine it is.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path


def system() -> str:
    """Return the operating system and its version, such as ``"Linux 6.1.0"``."""
    return f"{platform.system()} {platform.release()}"


def processor() -> str:
    """Return the name of the processor, else its architecture, else ``"unknown"``."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "unknown"


def usable_cores() -> int:
    """Return how many cores this process may use; there may be more (`os.cpu_count`)."""
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS and Windows
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def total_memory() -> int:
    """Return the main memory in bytes."""
    import psutil

    return int(psutil.virtual_memory().total)


def free_memory() -> int:
    """Return the main memory in bytes that could be used without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def gpu_names() -> list[str]:
    """Return the name of each GPU that torch can use, in its order."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of `packages`, in their order; those that are not installed are left out."""
    return {package: found for package in packages if (found := version(package)) is not None}
