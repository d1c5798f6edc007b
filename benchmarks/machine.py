"""What a benchmark ran on: processor, memory, file system, versions; nothing that names a person or a place."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from bitdial import machine

_PACKAGES = ("torchvision", "numpy", "lightning", "transformers", "onnxruntime")


def describe(folder: str | os.PathLike[str] | None = None, *, packages: tuple[str, ...] = _PACKAGES) -> dict[str, Any]:
    """Return a flat description of the machine, fit for JSON.

    Args:
        folder: where the benchmark reads and writes, for the type of its file system; None leaves that out.
        packages: installed packages whose versions matter; those that are not installed are left out.
    """
    facts: dict[str, Any] = {
        "cpu": machine.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(machine.total_memory() / 1e9, 1),
        "system": machine.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **machine.versions(packages),
    }
    if gpus := machine.gpu_names():
        facts["gpu"] = gpus[0]
        facts["cuda"] = torch.version.cuda
    if folder is not None:
        facts["file_system"] = file_system(folder)
    return facts


def keep_freed_memory() -> None:
    """On Linux let the C library keep freed memory instead of giving it back to the system after every step.

    As an allocator made for training would; else page faults decide the figures.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_threshold = -1, -3
    library = ctypes.CDLL(None)
    library.mallopt(trim_threshold, 2**31 - 1)
    library.mallopt(mmap_threshold, 32 * 2**20)


def file_system(folder: str | os.PathLike[str]) -> str:
    """Return the type of the file system that holds `folder`, such as ``"ext4"``, or ``"unknown"``."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    path = str(Path(folder).resolve())
    best, kind = "", "unknown"
    for line in mounts.read_text().splitlines():
        _, place, fs_type, *_ = line.split()
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, kind = place, fs_type
    return kind
