"""Which pictures a command is to work on, and where each goes: paths alone, before anything is read."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitdial.errors import BitdialError, suggest


@dataclass(frozen=True)
class Way:
    """One of the two commands, as far as names of files go.

    Attributes:
        command: its name.
        things: what it takes.
        taken: endings of what it takes out of folders.
        written: endings that OUTPUT may have; files of a folder get the first.
        lost: endings that a name loses when it gets another; others stay, such as that of ``12.30 noon``.
    """

    command: str
    things: str
    taken: frozenset[str]
    written: tuple[str, ...]
    lost: frozenset[str]


@dataclass(frozen=True)
class Job:
    """A file, and the one that is to be made of it."""

    source: Path
    target: Path


def jobs_of(words: Sequence[str], way: Way) -> list[Job]:
    """What is to be made of which file: ``INPUT... OUTPUT``.

    Raises:
        BitdialError: nothing is there, the two do not go together, or two files would become one.
    """
    if len(words) < 2:
        got = f"'{printable(words[0])}' alone" if words else "nothing"
        raise BitdialError(f"expected INPUT and OUTPUT, got {got}; `bitdial {way.command} --help` has an example")
    if "" in words:
        raise BitdialError("expected a path, got an empty word; is a variable of the shell empty?")
    *inputs, last = words
    sources = [each for word in inputs for each in _expanded(word, way)]
    output, single = Path(last), len(sources) == 1
    if single and not sources[0].is_dir() and not output.is_dir() and not last.endswith(os.sep):
        return _checked([Job(sources[0], _file(output, way))], way)
    _check_folder(output, way)
    jobs = list[Job]()
    for source in sources:
        if not source.is_dir():
            jobs.append(Job(source, output / _renamed(source.name, way)))
            continue
        if output.resolve().is_relative_to(source.resolve()):
            raise BitdialError(
                f"OUTPUT must not be in INPUT, got {printable(output)} in {printable(source)}; name another folder"
            )
        found = list(files_below(source, way.taken))
        if not found:
            raise BitdialError(f"expected {way.things} in {printable(source)}, got none; name a folder that has some")
        root = output if single else output / source.resolve().name
        jobs += [Job(file, root / _renamed(file.relative_to(source), way)) for file in found]
    return _checked(jobs, way)


def left_to_do(jobs: Iterable[Job], what_is_there: Callable[[Job], str | None], *, force: bool) -> list[Job]:
    """The jobs whose files are not there yet.

    Args:
        jobs: all of them.
        what_is_there: says what a file is that is where a job's is to be; None: the very one that it would make.
        force: whether other files may be replaced.

    Raises:
        BitdialError: other files are in the way, and may not be replaced.
    """
    left, in_the_way = list[Job](), list[str]()
    for job in jobs:
        there = what_is_there(job) if os.path.lexists(job.target) else ""
        left += [job] if there is not None else []
        if there and (not force or job.target.is_dir()):
            in_the_way.append(f"{printable(job.target)} ({there})")
    if in_the_way:
        some = ", ".join(in_the_way[:3]) + (f" and {len(in_the_way) - 3} more" if len(in_the_way) > 3 else "")
        raise BitdialError(
            f"expected nothing in the way, got {some}; choose another OUTPUT, or add --force to replace files"
        )
    return left


def files_below(folder: Path, endings: frozenset[str]) -> Iterator[Path]:
    """The files of some endings below a folder but for hidden ones; a link to a folder above itself is not followed."""
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refused):
        real = Path(place).resolve()
        above = {real, *real.parents}
        folders[:] = sorted(n for n in folders if n[0] != "." and Path(place, n).resolve() not in above)
        for path in (Path(place, name) for name in sorted(names) if name[0] != "."):
            if path.suffix.lower() in endings and (path.is_file() or not path.exists()):  # a broken link is told of
                yield path


def older(job: Job) -> bool:
    """Whether the file that was made is older than what it was made of."""
    return job.target.stat().st_mtime_ns < job.source.stat().st_mtime_ns


def printable(name: object) -> str:
    """A name or a sentence as a terminal can show it: what is no UTF-8 and what would move the cursor is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def _expanded(word: str, way: Way) -> list[Path]:
    path = Path(word)
    if path.is_file() or path.is_dir():
        return [path]
    if path.exists():
        raise BitdialError(f"INPUT must be a file or a folder, got {printable(word)}, which is neither")
    pattern = glob.has_magic(word)
    found = sorted(glob.glob(word, recursive=True)) if pattern else []
    if not found:
        beside = [] if pattern or not path.parent.is_dir() else [each.name for each in path.parent.iterdir()]
        near = suggest(path.name, beside)
        raise BitdialError(
            f"expected {way.things} at '{printable(word)}', got nothing{printable(near) or '; check the path'}"
        )
    return [Path(each) for each in found]


def _file(output: Path, way: Way) -> Path:
    if output.suffix.lower() not in way.written:
        raise BitdialError(
            f"OUTPUT must end in {' or '.join(way.written)}, or be a folder (a new one with a {os.sep} at its end), "
            f"got '{printable(output)}'"
        )
    return output


def _check_folder(output: Path, way: Way) -> None:
    if output.exists() and not output.is_dir():
        raise BitdialError(
            f"OUTPUT, the last word, must be a folder for several {way.things}, got the file {printable(output)}"
        )
    if output.suffix.lower() in way.written and not output.exists():
        raise BitdialError(
            f"OUTPUT, the last word, must be a folder for several {way.things}, got the name of a file, "
            f"'{printable(output)}'"
        )


def _refused(error: OSError) -> None:
    raise error


def _renamed(path: str | Path, way: Way) -> Path:
    path = Path(path)
    stem = path.stem if path.suffix.lower() in way.lost else path.name
    return path.with_name(stem + way.written[0])


def _checked(jobs: list[Job], way: Way) -> list[Job]:
    sources, targets = set[str](), dict[str, Path]()
    for job in jobs:
        source, target = os.path.abspath(job.source), os.path.abspath(job.target)
        if source in sources:
            raise BitdialError(f"INPUT must name every file once, got {printable(job.source)} twice; leave one out")
        if target in targets:
            raise BitdialError(
                f"{printable(targets[target])} and {printable(job.source)} would both become {printable(job.target)}; "
                f"rename one of them, or {way.command} them into different folders"
            )
        sources.add(source)
        targets[target] = job.source
    real = {os.path.realpath(source) for source in sources}
    for job in jobs:
        if os.path.realpath(job.target) in real:
            raise BitdialError(f"{printable(job.target)} is INPUT and would be replaced; choose another OUTPUT")
    for folder in {job.target.parent for job in jobs}:
        there = next(each for each in (folder, *folder.parents) if os.path.lexists(each) or each == each.parent)
        if not there.is_dir():
            raise BitdialError(f"OUTPUT needs the folder {printable(folder)}, got a file at {printable(there)}")
        if not os.access(there, os.W_OK | os.X_OK):
            raise BitdialError(f"OUTPUT must be in a folder that can be written, got {printable(there)}, which cannot")
    return jobs
