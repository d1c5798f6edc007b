"""What a measurement ran on; nothing that tells whose machine it is."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import psutil
import torch

from bitdial.evaluation.results import Machine

_LIBRARIES = ("bitdial", "torch", "torchvision", "lightning", "numpy", "pydantic", "transformers", "timm")


def describe_machine() -> Machine:
    """Return the processor, the accelerators and the versions that numbers measured now depend on."""
    return Machine(
        system=f"{platform.system()} {platform.release()} ({platform.machine()})",
        processor=_processor(),
        cores=_cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        accelerators=[torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        python=platform.python_version(),
        versions={name: version for name in _LIBRARIES if (version := _version(name))},
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "unknown"


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS and Windows
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
