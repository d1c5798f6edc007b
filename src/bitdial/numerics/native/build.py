"""Compiling the kernels once for a machine, and keeping them."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

_FLAGS = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off",
    "-fopenmp", "-shared", "-fPIC",
)  # fmt: skip
_SECONDS = 60


def library() -> Path | None:
    """Path of the compiled kernels, compiled now if need be; None without a compiler, or where compiling fails."""
    if not sys.platform.startswith("linux"):
        return None  # PyTorch's OpenMP runtime is found by its name, which differs elsewhere
    source = files("bitdial.numerics.native").joinpath("kernels.c").read_bytes()
    name = hashlib.sha256(source + " ".join((*_FLAGS, platform.machine(), _processor())).encode()).hexdigest()[:16]
    folder = _cache()
    if folder is None:
        return None
    path = folder / f"kernels-{name}.so"
    return path if path.is_file() or _compile(source, path) else None


def _cache() -> Path | None:
    """A folder that only this user can write to, since what lies there is run."""
    root = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(root) if root else Path.home() / ".cache") / "bitdial" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except (OSError, RuntimeError):
        return None
    return (
        folder if status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK) else None
    )


def _compile(source: bytes, path: Path) -> bool:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return False
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        made, written = Path(work, "kernels.so"), Path(work, "kernels.c")
        written.write_bytes(source)
        try:
            subprocess.run(
                [*compiler.split(), *_FLAGS, "-o", str(made), str(written), "-lm"],
                check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS,
            )  # fmt: skip
            os.replace(made, path)  # whole or not at all, also with several processes at once
        except (OSError, subprocess.SubprocessError):
            return False
    return True


def _processor() -> str:
    """What the processor can do: a home folder may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
