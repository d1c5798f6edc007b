"""Collects in one folder what a bare machine with a GPU lacks, and prints the one command to start there.

``python -m benchmarks.gpu.bundle [--out FOLDER] [--data FOLDER]``: wheels for Python 3.12 of the project, of its peers
and of whatever of their needs is not in ``machine.txt``, as far as ``constraints.txt`` pins it in its version; and the
four files of Fashion-MNIST. Every requirement is followed and checked, so that what installs there also runs; then the
wheels are installed into a fresh environment of that Python, if this machine has one, and imported.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from benchmarks.gpu.driver import REPOSITORY
from bitdial.errors import BitdialError

PYTHON = "3.12"
LARGEST = 60_000_000
"""Bytes of the whole folder, at most."""
PEERS = ("torchao", "brevitas")
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
TAGS = ("linux", "manylinux1", "manylinux2014", *(f"manylinux_2_{number}" for number in range(5, 40)))
FOR_PYTHON = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
FOR_PYTHON += [word for tag in TAGS for word in ("--platform", f"{tag}_x86_64")]
PIP = [sys.executable, "-m", "pip"]
TRIED = "import bitdial, pydantic, tyro, sys; print(sys.version.split()[0], bitdial.__version__)"


def pinned(file: Path) -> dict[str, Version | None]:
    """The packages of a file of pins, by canonical name."""
    found: dict[str, Version | None] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("#")[0].strip().partition("==")
        if name:
            found[canonicalize_name(name)] = Version(version) if version else None
    return found


def requirements(wheel: Path) -> list[Requirement]:
    """What a wheel needs on the machine, its extras left out."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    there = {
        "python_version": PYTHON, "python_full_version": f"{PYTHON}.3", "sys_platform": "linux", "os_name": "posix",
        "platform_system": "Linux", "platform_machine": "x86_64", "implementation_name": "cpython",
        "platform_python_implementation": "CPython", "extra": "",
    }  # fmt: skip
    found = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    return [each for each in found if each.marker is None or each.marker.evaluate(there)]


def download(requirement: str, folder: Path) -> None:
    """Fetch one wheel for the machine, without what it needs.

    Raises:
        BitdialError: there is none.
    """
    words = [*PIP, "download", "--quiet", "--no-deps", "--dest", str(folder), *FOR_PYTHON, requirement]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line), done.stderr[-300:])
        raise BitdialError(f"a wheel of {requirement} for Python {PYTHON} must be had, got: {last.strip()}")


def build_project(folder: Path) -> Path:
    """Build the project's wheel into a folder.

    Raises:
        BitdialError: it cannot be built.
    """
    words = [*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(REPOSITORY)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BitdialError(f"the project must build into a wheel, got: {done.stderr[-500:]}")
    return next(folder.glob("bitdial-*.whl"))


def collect(folder: Path, peers: Iterable[str]) -> list[str]:
    """Fill a folder with wheels; return a line for each requirement that the machine itself meets.

    Raises:
        BitdialError: a wheel cannot be had, or a version of the machine or of another wheel does not do.
    """
    machine = pinned(Path(__file__).with_name("machine.txt"))
    pins = pinned(REPOSITORY / "constraints.txt")
    waiting = [(each, "bitdial") for each in requirements(build_project(folder))]
    waiting += [(Requirement(name), "the benchmarks") for name in peers]
    have: dict[str, Version] = {}
    met = []
    while waiting:
        needed, by = waiting.pop(0)
        name = canonicalize_name(needed.name)
        if name in machine:
            version = machine[name]
            if version is not None and not needed.specifier.contains(version, prereleases=True):
                raise BitdialError(
                    f"{by} needs {needed}, got {version} on the machine; carry another version of either"
                )
            met.append(f"{needed} of {by}: {version or 'some version'} is there")
            continue
        if name not in have:
            pin = pins.get(name)
            download(f"{name}=={pin}" if pin is not None else str(needed).partition(";")[0], folder)
            wheel, have[name] = _wheel_of(name, folder)
            waiting += [(each, name) for each in requirements(wheel)]
        if not needed.specifier.contains(have[name], prereleases=True):
            raise BitdialError(f"{by} needs {needed}, got {have[name]}; change the pin in constraints.txt")
    return met


def _wheel_of(name: str, folder: Path) -> tuple[Path, Version]:
    for wheel in folder.glob("*.whl"):
        found, version, *_ = parse_wheel_filename(wheel.name)
        if found == name:
            return wheel, version
    raise AssertionError(f"no wheel of {name}")


def copy_data(source: Path | None, folder: Path) -> None:
    """Copy the four files of Fashion-MNIST, gzipped ones as they are.

    Raises:
        BitdialError: one is missing.
    """
    from bitdial.data.published import DEBIAN_FASHION_MNIST, cache_folder

    places = [source] if source else [DEBIAN_FASHION_MNIST, cache_folder() / "FashionMNIST" / "raw"]
    for name in FILES:
        found = [file for place in places for end in (".gz", "") if (file := place / f"{name}{end}").is_file()]
        if not found:
            raise BitdialError(
                f"Fashion-MNIST's {name} must lie in {' or '.join(map(str, places))}, got no such file; install "
                "Debian's dataset-fashion-mnist, or give its folder as --data"
            )
        shutil.copyfile(found[0], folder / found[0].name)


def try_out(wheels: Path, python: str) -> str:
    """Install the wheels where nothing else is, and import them; say how far that went.

    Args:
        wheels: their folder.
        python: name or path of that Python; if it is not here, pip at least resolves the wheels for it.

    Raises:
        BitdialError: they cannot be installed or imported.
    """
    install = ["install", "--quiet", "--no-index", "--no-deps"]
    files = [str(wheel) for wheel in sorted(wheels.glob("*.whl"))]
    found = shutil.which(python)
    asked = [found or "", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    with tempfile.TemporaryDirectory() as folder:
        if not found or subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() != PYTHON:
            _run([*PIP, *install, "--dry-run", "--target", folder, *FOR_PYTHON, *files])
            return f"tried with pip's --dry-run, as {python} is no Python {PYTHON} here"
        _run([found, "-m", "venv", folder])
        fresh = str(Path(folder) / "bin" / "python")
        _run([fresh, "-m", "pip", *install, *files])
        return f"installed and imported in a fresh environment of Python {_run([fresh, '-c', TRIED]).split()[0]}"


def _run(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BitdialError(f"the wheels must install and import by themselves, got: {done.stderr.strip()[-500:]}")
    return done.stdout


def main(words: list[str] | None = None) -> int:
    """Make the bundle anew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.bundle", description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "gpu-bundle")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST's four files, if not where bitdial looks")
    parser.add_argument("--python", default=f"python{PYTHON}", help="the Python to try it with (default: python3.12)")
    options = parser.parse_args(words)
    out = options.out
    try:
        if out.exists() and not (out / "wheels").is_dir() and (not out.is_dir() or any(out.iterdir())):
            raise BitdialError(f"--out must be a new folder or an earlier bundle, got {out} with other things in it")
        shutil.rmtree(out, ignore_errors=True)
        for folder in ("wheels", "fashion-mnist"):
            (out / folder).mkdir(parents=True)
        copy_data(options.data, out / "fashion-mnist")
        met = collect(out / "wheels", PEERS)
        tried = try_out(out / "wheels", options.python)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        if size > LARGEST:
            raise BitdialError(f"the bundle must be below {LARGEST / 1e6:.0f} MB, got {size / 1e6:.1f}")
    except (BitdialError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for file in sorted(out.rglob("*")):
        if file.is_file():
            print(f"{file.stat().st_size / 1e6:8.2f} MB  {file.relative_to(out)}")
    print(f"{size / 1e6:8.2f} MB in all; {len(met)} requirements are met by the machine; {tried}\n")
    near = out.relative_to(REPOSITORY) if out.is_relative_to(REPOSITORY) else out
    print(
        "Start there, in the root of the repository, with:\n\n"
        f"  python3 -m pip install -q --no-index --no-deps --upgrade --target /tmp/bitdial-site {near}/wheels/*.whl && "
        f"PYTHONPATH=src:/tmp/bitdial-site python3 -m benchmarks.gpu --minutes 8 --data {near}/fashion-mnist"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
