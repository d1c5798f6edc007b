"""The machine: processor, memory, disk, accelerators, and the software that is installed."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from bitdial import machine as facts
from bitdial.doctor.findings import Finding

GIB = 1 << 30

OPTIONAL = {
    "transformers": "text",
    "peft": "text",
    "accelerate": "text",
    "timm": "timm",
    "constriction": "compression",
    "onnx": "export",
    "onnxruntime": "export",
    "safetensors": "export",
    "optuna": "search",
    "gradio": "app",
    "wandb": None,
    "trackio": None,
}
"""Packages that widen what bitdial does -> the extra that installs them (``None``: install it by its own name)."""


def machine(folder: Path) -> Iterator[Finding]:
    """Describe the host: `folder` is where runs would be written."""
    vectors, free = torch.backends.cpu.get_cpu_capability(), shutil.disk_usage(folder).free
    yield Finding("machine", "system", f"{facts.system()}, {platform.machine()}")
    yield Finding("machine", "cores", f"{facts.usable_cores()} usable of {os.cpu_count()}; vector unit {vectors}")
    yield Finding("machine", "memory", f"{facts.free_memory() / GIB:.1f} GiB free of {facts.total_memory() / GIB:.1f}")
    yield Finding("machine", "disk", f"{free / GIB:.1f} GiB free for {folder.resolve() / 'runs'}")


def software() -> Iterator[Finding]:
    """List the versions that results depend on."""
    yield Finding("software", "python", platform.python_version())
    for package in ("bitdial", "torch", "torchvision", "lightning", "numpy"):
        yield _package("software", package, "missing")
    yield _package("software", "triton", "missing; compiled GPU kernels need it")


def accelerators() -> Iterator[Finding]:
    """Describe every GPU, and what several devices could talk through."""
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield Finding("devices", "cuda", f"no GPU found; {built}", False)
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        text = f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {gpu.total_memory / GIB:.0f} GiB"
        yield Finding("devices", f"cuda:{index}", text, True)
    mps = torch.backends.mps.is_available()
    yield Finding("devices", "mps", "Apple GPU" if mps else "no Apple GPU", mps)
    available = torch.distributed.is_available()
    for backend in ("gloo", "nccl", "mpi"):
        works = available and getattr(torch.distributed, f"is_{backend}_available")()
        yield Finding("devices", backend, "distributed backend" if works else "not in this build of torch", works)


def optional_packages() -> Iterator[Finding]:
    """Say which optional packages are installed, and how to get the others."""
    for package, extra in OPTIONAL.items():
        install = f"pip install 'bitdial[{extra}]'" if extra else f"pip install {package}"
        yield _package("optional", package, install)


def _package(topic: str, name: str, otherwise: str) -> Finding:
    """Report a package: its version, or `otherwise` where it is not installed."""
    installed = facts.version(name)
    return Finding(topic, name, installed or otherwise, installed is not None)
