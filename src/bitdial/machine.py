"""Facts about the machine: what its system, processor, memory and GPUs are, and which packages are installed.

The doctor, the record of a run and the benchmarks each show these in words of their own. Nothing here tells whose
machine it is.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

_MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of glibc's ``malloc.h``."""


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


def return_large_blocks(size: int = 2**20) -> bool:
    """Have the C library give blocks of `size` bytes or more back to the system as soon as they are freed; glibc only.

    By itself it keeps freed blocks of up to 32 MiB for later ones, which lie in gaps that do not fit them: a training
    step then takes up to twice what its tensors do, and never the same twice. A step becomes some percent slower.

    Returns:
        Whether it will.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, size))
    except (AttributeError, OSError, TypeError):  # another C library
        return False


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


def version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of `packages`, in their order; those that are not installed are left out."""
    return {package: found for package in packages if (found := version(package)) is not None}
