"""Compiling the kernels once for a machine, and keeping them.

What is kept is run, so it is taken only from a folder that nobody else can write to, and only whole: a file's name ends
with the digest of what is in it. Anything else is compiled again over it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

_COMPILE = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp", "-fPIC", "-c",
)  # fmt: skip
# Without -fopenmp, which would name an OpenMP runtime to load: the one that PyTorch has loaded is the one to use, and
# two of different makers in one process may end it.
_LINK = ("-shared",)
_SECONDS = 60
_SOURCES = ("kernels.c", "weights.c")  # compiled as one


class UnavailableError(Exception):
    """Why there are no kernels on this machine, in words; never shown to a user as an error."""


def library(source: bytes | None = None) -> Path:
    """Path of the compiled kernels, compiled now if need be.

    Args:
        source: what to compile, in C; None: the kernels of this folder.

    Raises:
        UnavailableError: there is no compiler or no safe place to keep what it makes, or compiling fails.
    """
    if not sys.platform.startswith("linux"):
        raise UnavailableError(f"they are made on Linux only, not on {sys.platform}")
    try:
        if source is None:
            folder_of_source = files("bitdial.numerics.native")
            source = b"".join(folder_of_source.joinpath(name).read_bytes() for name in _SOURCES)
        key = _digest(source + " ".join((*_COMPILE, *_LINK, platform.machine(), flags_of_processor())).encode())
        folder = _cache()
        return _kept(folder, key) or _compile(source, folder, key)
    except (OSError, RuntimeError) as error:  # a full disk, a folder that cannot be written, no home folder
        raise UnavailableError(str(error)) from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _cache() -> Path:
    """The folder of the kernels, made if need be, where only this user can write."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(root) if os.path.isabs(root) else Path.home() / ".cache"
    (home / "bitdial").mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = (home / "bitdial").resolve() / "kernels"
    folder.mkdir(exist_ok=True, mode=0o700)
    status = folder.lstat()
    if not (stat.S_ISDIR(status.st_mode) and _only_mine(status)):
        raise UnavailableError(f"{folder} must be a folder, not a link, that is yours and that only you can write to")
    for above in folder.parents:
        if _others_may_replace(above.stat()):
            raise UnavailableError(
                f"{above} can be written by others, and what is kept in it is run; set XDG_CACHE_HOME to another folder"
            )
    return folder


def _only_mine(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _others_may_replace(status: os.stat_result) -> bool:
    """Whether others can put something else in the place of what lies in a folder."""
    # Where every user has a group of his own, it has his number, and folders are writable for it.
    by_group = status.st_mode & stat.S_IWGRP and status.st_gid != os.getuid()
    kept_apart = status.st_mode & stat.S_ISVTX and status.st_uid in (0, os.getuid())  # as in /tmp
    return bool((by_group or status.st_mode & stat.S_IWOTH) and not kept_apart)


def _kept(folder: Path, key: str) -> Path | None:
    """What was compiled before; None where there is nothing, or a file that was cut off or changed."""
    for path in folder.glob(f"kernels-{key}-*.so"):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and _only_mine(status) and path.stem.endswith(_digest(path.read_bytes())):
            return path
    return None


def _compile(source: bytes, folder: Path, key: str) -> Path:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if not compiler:
        raise UnavailableError("there is no C compiler (gcc, cc or clang)")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        written, compiled, made = (Path(work, f"kernels.{end}") for end in ("c", "o", "so"))
        written.write_bytes(source)
        _run(*compiler.split(), *_COMPILE, "-o", str(compiled), str(written))
        _run(*compiler.split(), *_LINK, "-o", str(made), str(compiled), "-lm")
        made.chmod(0o700)
        path = folder / f"kernels-{key}-{_digest(made.read_bytes())}.so"
        os.replace(made, path)  # whole or not at all, also with several processes at once
    return path


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS)
    except subprocess.CalledProcessError as error:
        lines: list[str] = error.stderr.decode(errors="replace").splitlines()
        told = next((line for line in lines if "error" in line), lines[0] if lines else "it says nothing")
        raise UnavailableError(f"the compiler {command[0]} failed: {told}") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"the compiler {command[0]} took more than {_SECONDS} s") from error


def flags_of_processor() -> str:
    """What the processor can do: a home folder may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
