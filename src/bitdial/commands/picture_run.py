"""What ``bitdial compress`` and ``bitdial decompress`` do: find files and codec, work in processes, and tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from bitdial.commands.picture_paths import Job, left_to_do, printable
from bitdial.commands.picture_progress import PictureProgress, sizes
from bitdial.commands.picture_work import (
    Outcome,
    Task,
    codec,
    compress,
    compressed_there,
    decompress,
    header,
    one_thread,
    picture_there,
)
from bitdial.commands.processes import in_processes
from bitdial.compression.coding.container import File
from bitdial.errors import BitdialError, RunInterrupted
from bitdial.interrupts import interrupted_by_sigterm
from bitdial.machine import usable_cores
from bitdial.recipes.compress.codecs import codec_that_wrote, newest_codec
from bitdial.terminal import terminal

if TYPE_CHECKING:
    from bitdial.commands.compress import CompressConfig, DecompressConfig

Failures = dict[Path, str]


def compress_all(jobs: Sequence[Job], options: CompressConfig) -> int:
    """Compress pictures; return the exit status."""
    model = options.model or newest_codec()
    own = codec(model).model_id
    if options.model is None:
        _say(f"The codec is that of {model}.")
    left = left_to_do(jobs, lambda job: compressed_there(job, own), force=options.force)
    tasks = [Task(job, model, own, options.max_pixels) for job in left]
    return _carry_out("compress", compress, tasks, len(jobs) - len(left), {}, options.jobs)


def decompress_all(jobs: Sequence[Job], options: DecompressConfig) -> int:
    """Make pictures of files again; return the exit status."""
    failures, files = Failures(), dict[Job, File]()
    for job in jobs:
        try:
            files[job] = header(job)
        except BitdialError as error:
            failures[job.source] = str(error)
    models = _models(files, options)
    left = left_to_do(files, lambda job: picture_there(job, files[job], options.preview), force=options.force)
    tasks = [Task(job, *models[files[job].model_id], options.max_pixels, options.preview) for job in left]
    return _carry_out("decompress", decompress, tasks, len(files) - len(left), failures, options.jobs)


def _models(files: dict[Job, File], options: DecompressConfig) -> dict[str, tuple[Path, str]]:
    """The codec for each id that files have: its run or file, and its own id."""
    found = dict[str, tuple[Path, str]]()
    for job, file in files.items():
        if file.model_id in found:
            continue
        try:
            model = options.model or codec_that_wrote(file.model_id)
            own = codec(model)
        except BitdialError as error:
            raise BitdialError(f"{printable(job.source)}: {error}") from error
        found[file.model_id] = model, own.model_id
        if options.preview is not None and options.preview > own.model.steps:
            raise BitdialError(
                f"--preview: expected at most {own.model.steps}, the coding steps of {model}, got {options.preview}"
            )
    if options.model is None:
        for path in dict.fromkeys(path for path, _ in found.values()):
            _say(f"The codec is that of {path}.")
    return found


def _carry_out(
    name: str,
    work: Callable[..., Outcome],
    tasks: Sequence[Task],
    skipped: int,
    failures: Failures,
    jobs: int | None,
) -> int:
    """Do all tasks, tell of each what there is to tell and of all how it went; return the exit status."""
    start, total = time.monotonic(), len(tasks) + len(failures)
    done = list[Outcome]()
    if skipped:
        _say(f"{_counted(skipped)} {'were' if skipped > 1 else 'was'} {name}ed before.")
    count = max(1, min(jobs or usable_cores(), len(tasks)))
    progress = PictureProgress(f"{name}ing", len(tasks))
    told = partial(work, progress=progress.part) if count == 1 else work
    results = in_processes(told, tasks, count, one_thread)
    try:
        with interrupted_by_sigterm(), closing(results), progress:
            for task, outcome in results:
                outcome = outcome or Outcome(failure=_killed(task))
                if outcome.stop:
                    raise BitdialError(
                        f"{printable(outcome.failure)}; give it room or another OUTPUT: {len(done)} of "
                        f"{_counted(total)} done, the same command does the others"
                    )
                if outcome.failure:
                    failures[task.job.source] = outcome.failure
                else:
                    done.append(outcome)
                for note in outcome.notes:
                    progress.note(f"{task.job.source}: {note}")
                progress.advance(sizes(*_sums(done)[:2]))
    except KeyboardInterrupt:
        raise RunInterrupted(
            f"interrupted: {len(done)} of {_counted(total)} done; the same command does the others"
        ) from None
    if done:
        before, after, pixels = _sums(done)
        rate = 8 * (after if work is compress else before) / pixels
        seconds = time.monotonic() - start
        _say(f"{_counted(len(done))}: {sizes(before, after)}, {rate:.3f} bits per pixel, {seconds:.1f} s")
    return _tell(name, failures, total)


def _tell(name: str, failures: Failures, total: int) -> int:
    if not failures:
        return 0
    if len(failures) == total and len({*failures.values()}) == 1:
        raise BitdialError(printable(next(iter(failures.values()))))
    console = terminal(stderr=True)
    console.print(f"{len(failures)} of {_counted(total)} could not be {name}ed:", style="bold red")
    for path, reason in failures.items():
        named = reason if str(path) in reason else f"{path}: {reason}"
        console.print(Text(f"  {printable(named)}"), soft_wrap=True)
    return 2


def _killed(task: Task) -> str:
    return f"{task.job.source}: its process was killed, as happens where memory runs out; try fewer --jobs"


def _sums(done: Sequence[Outcome]) -> tuple[int, int, int]:
    return sum(each.read for each in done), sum(each.written for each in done), sum(each.pixels for each in done)


def _counted(count: int) -> str:
    return f"{count} picture{'s' * (count != 1)}"


def _say(text: str) -> None:
    terminal().print(Text(printable(text)), soft_wrap=True)
