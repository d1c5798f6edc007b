"""Facts about the machine: what its system, processor, memory and GPUs are, and which packages are installed.

The doctor, the record of a run and the benchmarks each show these in words of their own. Nothing here tells whose
machine it is.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

_MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of glibc's ``malloc.h``."""
NARROW = ("bfloat16", "float16")
"""Formats of half the bits of float32, the better behaved one first."""
CLEARLY = 1.1
"""How many times as fast as float32 a format must be to be worth its rounding; clocks of busy machines err by less."""


def fastest(speeds: Mapping[str, float]) -> str:
    """Return the format that is clearly the fastest of `product_speeds`: float32 where none is."""
    best = max(speeds, key=lambda name: speeds[name], default="float32")
    if speeds.get(best, 0) < CLEARLY:
        return "float32"
    return "bfloat16" if speeds.get("bfloat16", 0) * CLEARLY >= speeds[best] else best  # it needs no loss scale


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


def used_memory() -> int:
    """Return the bytes of memory that this process holds."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def most_used_memory(*, anew: bool = False) -> int | None:
    """Return the most bytes that this process has held since it began, or since it was asked `anew`; Linux only."""
    try:
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        rows = Path("/proc/self/status").read_text().splitlines()
        return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None


def return_free_memory() -> None:
    """Have the C library give back to the system what is free in its heap; glibc only."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def return_large_blocks(size: int = 2**20) -> None:
    """Have the C library give blocks of `size` bytes or more back to the system as soon as they are freed; glibc only.

    By itself it keeps freed blocks of up to 32 MiB for later ones, which lie in gaps that do not fit them: a training
    step then takes up to twice what its tensors do, and never the same twice. A step becomes some percent slower.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, size)


def memory_left() -> int:
    """Return the bytes that this process may still take: of the machine, its container, and its own limits."""
    import psutil

    left = [free_memory(), *_left_in_groups()]
    try:
        import resource
    except ImportError:  # Windows
        return left[0]
    held = psutil.Process().memory_info()
    for limit, taken in ((resource.RLIMIT_AS, held.vms), (resource.RLIMIT_DATA, getattr(held, "data", 0))):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            left.append(soft - taken)
    return max(min(left), 0)


def _left_in_groups(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return what the control groups of this process (containers, services) leave of their limits; Linux only."""
    try:
        lines = [line.split(":", 2) for line in groups.read_text().split("\n") if line.count(":") >= 2]
    except OSError:
        return []
    left = []
    for _, kinds, path in lines:
        if kinds == "":  # the second version
            top, limit, used, cache = root, "memory.max", "memory.current", ("inactive_file", "active_file")
        elif "memory" in kinds.split(","):
            top, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = ("total_inactive_file", "total_active_file")
        else:
            continue
        own = top / path.strip("/")
        for folder in (own, *own.parents):  # a container may see its own group as the top one
            if not folder.is_relative_to(top):
                break
            try:
                most = (folder / limit).read_text().strip()
                stat = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
                if most != "max":
                    taken = int((folder / used).read_text()) - sum(int(stat.get(name, 0)) for name in cache)
                    left.append(int(most) - taken)
            except (OSError, ValueError):
                continue
    return left


def gpu_names() -> list[str]:
    """Return the name of each GPU that torch can use, in its order."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


@cache
def product_speeds(device: str) -> dict[str, float]:
    """Time a step of a convolution and a matrix product in each format, under autocast: some tenths of a second.

    Args:
        device: "cpu", "cuda", ...

    Returns:
        Format -> how many times as fast as float32 its products are here, below 1 where they are slower; formats that
        cannot be computed in are left out. The first answer is kept, so that a process has one opinion.
    """
    import torch

    big = device != "cpu"  # a GPU takes as long for a small product as for none
    side, rows, width = (128, 4096, 4096) if big else (64, 128, 512)

    def ramp(*shape: int) -> torch.Tensor:  # no random numbers: a run's are its own
        return torch.linspace(-1, 1, math.prod(shape), device=device).view(shape).requires_grad_()

    image, kernel = ramp(4, side, 16, 16), ramp(side, side, 3, 3)
    matrix, weight = ramp(rows, width), ramp(width, width)

    def seconds(name: str) -> float:
        began = time.perf_counter()
        with torch.autocast(device, dtype=getattr(torch, name), enabled=name != "float32"):
            made = torch.nn.functional.conv2d(image, kernel, padding=1), torch.nn.functional.linear(matrix, weight)
        total = sum((each.float().sum() for each in made), torch.zeros((), device=device))
        gradients = torch.autograd.grad(total, [image, kernel, matrix, weight])
        gradients[-1].sum().item()  # waits for the device
        return time.perf_counter() - began

    taken: dict[str, list[float]] = {name: [] for name in ("float32", *NARROW)}
    for _ in range(8):  # in turn, for other work on the machine comes and goes
        for name, found in [*taken.items()]:
            try:
                if len(found) < 2 or sum(found) < 0.1:  # in the first, kernels are chosen
                    found.append(seconds(name))
            except (RuntimeError, NotImplementedError):
                del taken[name]
    least = {name: min(found) for name, found in taken.items()}
    return {name: least["float32"] / least[name] for name in NARROW if name in least}


def version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of `packages`, in their order; those that are not installed are left out."""
    return {package: found for package in packages if (found := version(package)) is not None}
