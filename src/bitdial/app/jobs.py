"""Jobs that outlive whoever started them: a run is started, watched, stopped, resumed and removed, from any process.

A job is ``bitdial train`` in a process group of its own, behind a small process that waits for the job's devices. All
that is known of it lies in the folder of its run (docs/jobs.md), so that every `JobManager` over the same root, in
whatever process, knows the same. Nothing here imports torch or gradio.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bitdial.app import output
from bitdial.app.looking import look, mapping_in
from bitdial.app.queue import Queue, check_locks
from bitdial.app.records import FileEntry, Job, LogPart, Problem, RunStatus, SeriesPart, mark_of
from bitdial.app.store import change_job, folder_of, read_bytes, read_job, run_ids, write_job
from bitdial.app.supervisor import MARK
from bitdial.errors import BitdialError
from bitdial.processes import below, members, send
from bitdial.training.run_folder import JOB_OPTIONS, OUTPUT, numbered

GRACE_SECONDS = 30.0
"""How long a job has to save and end after it was asked to, before SIGTERM; SIGKILL comes after a third of it."""


class JobManager:
    """The runs under a root, and what can be done with them.

    Two managers over one root, in one process or in several, are one: nothing is kept in them but copies of what files
    said. Every method may be called from several threads. A run is named by its id, the name of its folder; one that is
    no such name (a path, dots, a link) is refused by `BitdialError`, as is an id of no run, with the nearest one.

    A run under a root that somebody started by hand is listed, shown, stopped, resumed and removed like any other.

    Args:
        runs_root: folder of the runs; made when the first one is started.
    """

    def __init__(self, runs_root: str | Path = "runs") -> None:
        self.root = Path(runs_root).absolute()
        self._kept: dict[Path, tuple[Any, Any]] = {}

    def check(self, recipe: str, options: Mapping[str, Any], preset: str | None = None) -> list[Problem]:
        """Return all that is wrong with options, by the recipe's own models; nothing is started, and no torch loaded.

        Args:
            recipe: name of the recipe.
            options: as `start` takes them.
            preset: likewise.

        Returns:
            The problems, none where `start` would start. One of an unknown recipe or preset has the field ``recipe``
            or ``preset``, one between several options their first one's name or an empty one.
        """
        from bitdial.app.checking import problems

        return problems(recipe, options, preset)

    def start(self, recipe: str, options: Mapping[str, Any], preset: str | None = None) -> str:
        """Start a new run in the background and return its id at once; it waits while its device is busy.

        Args:
            recipe: name of the recipe.
            options: option -> value, as in ``config.yaml`` (groups nested) or as flags without ``--`` (groups with
                dots: ``{"cyclic.cycle_length": 40}``), both mixed as you like. What is left out has the default of
                preset or recipe. Values are checked by the recipe's options; ``run_dir`` is the manager's to choose,
                and ``resume`` may name a checkpoint of no run alone.
            preset: a preset of the recipe, under the options.

        Raises:
            BitdialError: an option is wrong (the text of the first of `check`), or the root cannot be written to.
        """
        found = self.check(recipe, options, preset)
        if found:
            raise BitdialError(f"{found[0].field}: {found[0].message}".removeprefix(": "))
        from bitdial.app.checking import as_yaml, devices_of

        def command(folder: Path) -> list[str]:
            words = ["--preset", preset] if preset is not None else []
            return [*_program(), recipe, *words, "--config", str(folder / JOB_OPTIONS), "--run_dir", str(folder)]

        return self.launch(recipe, devices_of(recipe, options, preset), command, as_yaml(recipe, options))

    def launch(
        self, recipe: str, devices: Sequence[str], command: Callable[[Path], Sequence[str]], options: str = ""
    ) -> str:
        """Start any command as a new run, as `start` does with ``bitdial train``; return its id.

        Args:
            recipe: names the run's folder.
            devices: what it waits for.
            command: the run's folder -> words of the command.
            options: text of the file ``options.yaml`` in that folder.

        Raises:
            BitdialError: the root cannot be written to.
        """
        check_locks()
        folder = None
        try:
            folder = numbered(self.root, recipe)
            (folder / JOB_OPTIONS).write_text(options, encoding="utf-8")
            self._begin(folder, recipe, list(command(folder)), devices, time.time())
        except OSError as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise BitdialError(
                f"cannot start a run under {self.root}: {error.strerror}; check its rights and the free space"
            ) from error
        return folder.name

    def resume(self, run: str) -> str:
        """Go on with a run that was stopped or failed, from its newest sound checkpoint; return its id, which stays.

        It waits for its device like a new one. A run that was stopped before it began starts from its beginning; one
        that is finished would have nothing to do, and is refused.

        Raises:
            BitdialError: no such run, it lives, or it is finished.
        """
        check_locks()
        folder, status = self._folder(run), self.status(run)
        if status.alive or status.state == "finished":
            raise BitdialError(f"expected a run that was stopped or failed, got {run}, which is {status.state}")
        job = read_job(folder)
        from bitdial.app.checking import devices_of_run

        begun = (folder / "config.yaml").is_file()
        if begun and not (job is not None and job.command[1:5] != _program()[1:]):
            command = [*_program(), status.recipe, "--resume", str(folder)]
        elif job is not None:
            command = job.command
        else:
            raise BitdialError(f"{run} cannot be resumed: neither its config.yaml nor its job.json can be read")
        devices = job.devices if job is not None else devices_of_run(folder)
        try:
            self._begin(folder, status.recipe, command, devices, status.created or time.time(), job)
        except OSError as error:
            raise BitdialError(f"cannot resume {run}: {error.strerror}; check its rights and the free space") from error
        return run

    def list(self) -> list[RunStatus]:
        """Return how each run under the root stands, the newest first; runs whose folder goes meanwhile are left out.

        Raises:
            BitdialError: the root is a file, or cannot be read.
        """
        Queue(self.root).clear()
        found = [look(self.root / name, self._kept) for name in run_ids(self.root)]
        return sorted(found, key=lambda status: (-status.created, status.id))

    def status(self, run: str) -> RunStatus:
        """Return how a run stands now.

        A look finds out whether its process lives. Where that is gone, or its number belongs to another program by now,
        the run is noted as failed, with the last lines of its output as message.

        Raises:
            BitdialError: no such run.
        """
        return look(self._folder(run), self._kept)

    def log(self, run: str, since: int | None = None) -> LogPart:
        """Return a piece of a run's output, at most 64 KiB of it.

        Args:
            run: its id.
            since: where to begin, as an earlier piece's `next` said; 0: the beginning; None: the last piece. What was
                dropped (of more than 16 MiB, the last one is kept) is left out: `start` tells where the piece begins.

        Returns:
            The piece; without text where there is nothing new, or no output: that of a run that was started by hand
            goes to its terminal.

        Raises:
            BitdialError: no such run.
        """
        try:
            return output.read_output(self._folder(run) / OUTPUT, since)
        except OSError:
            return LogPart("", since or 0, since or 0, False)

    def series(self, run: str, since: str = "") -> SeriesPart:
        """Return rows of a run's ``metrics.csv``, at most 256 KiB of them.

        Args:
            run: its id.
            since: an earlier piece's `next`; empty: from the first row on.

        Raises:
            BitdialError: no such run.
        """
        try:
            return output.read_series(self._folder(run) / "metrics.csv", since)
        except OSError:
            return SeriesPart([], "", not since, False)

    def stop(self, run: str, grace: float = GRACE_SECONDS) -> None:
        """Ask a run to stop, as Ctrl-C does, and return at once; it saves first. A run that waits leaves the queue.

        Its processes get SIGINT now, SIGTERM where they still live after the grace period, and SIGKILL a third of it
        later, children included; a process of its own sees to that, whatever becomes of the caller. A run that is about
        to stop already is left at it. Of a run that was started by hand, the training and its children are meant.

        Args:
            run: its id.
            grace: seconds.

        Raises:
            BitdialError: no such run, or none that lives.
        """
        folder, status = self._folder(run), self.status(run)
        if not status.alive:
            raise BitdialError(f"expected a run that waits or trains, got {run}, which is {status.state}")
        if status.state != "stopping" and status.managed:
            first = list[bool]()

            def ask(job: Job) -> dict[str, Any] | None:
                first.append(job.stop_requested is None)
                return {"stop_requested": time.time()} if first[0] else None

            with suppress(OSError):  # a full disk: it is stopped all the same
                change_job(folder, ask)
            if first == [False]:
                return
        elif status.state == "stopping":
            job = read_job(folder)
            if job is not None and time.time() - (job.stop_requested or 0) < grace * 2:
                return
        if status.state == "running":
            send(processes_of(folder), signal.SIGINT)
        _detached(
            [sys.executable, "-P", "-m", "bitdial.app.ending", str(self.root), run, str(float(grace))], os.environ
        )

    def remove(self, run: str) -> None:
        """Delete a run's folder with all that is in it, for good.

        Raises:
            BitdialError: no such run, it waits or trains (stop it first), or the system refuses.
        """
        folder, status = self._folder(run), self.status(run)
        if status.alive:
            raise BitdialError(f"{run} is {status.state}; stop it first")
        aside = self.root / f".removed-{secrets.token_hex(8)}"
        try:
            folder.rename(aside)  # at once for everybody, and by one of those who try
            shutil.rmtree(aside)
        except FileNotFoundError:
            raise BitdialError(f"expected a run to remove, got {run}, which somebody else has removed") from None
        except OSError as error:
            raise BitdialError(f"cannot remove {run}: {error.strerror}; check the folder's rights") from error

    def files(self, run: str) -> Sequence[FileEntry]:
        """Return the files of a run that may be offered: results, report, plots, tables, networks; none is a link.

        Raises:
            BitdialError: no such run.
        """
        from bitdial.app.offered import offered

        return offered(self._folder(run))

    def path(self, run: str, name: str) -> Path:
        """Return where a file of `files` lies.

        Raises:
            BitdialError: no such run, or `name` is none of the names in `files`.
        """
        folder = self._folder(run)
        if name not in {each.name for each in self.files(run)}:
            raise BitdialError(f"expected a file that {run} offers, got {name!r:.80}")
        return folder.joinpath(*name.split("/"))

    def _folder(self, run: str) -> Path:
        return folder_of(self.root, run)

    def _begin(
        self,
        folder: Path,
        recipe: str,
        command: Sequence[str],
        devices: Sequence[str],
        created: float,
        former: Job | None = None,
    ) -> None:
        """Note a job in a folder, and start the process behind it."""
        ticket, handle = Queue(self.root).take(folder.name, devices)
        try:
            job = Job(
                recipe=recipe,
                command=[*command],
                cwd=str(Path.cwd()) if former is None else former.cwd,
                devices=list(devices),
                token=secrets.token_hex(16),
                created=created,
                ticket=ticket,
                heartbeat=time.time(),
            )
            write_job(folder, job)
            log = os.open(folder / OUTPUT, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                words = [sys.executable, "-P", "-m", "bitdial.app.supervisor", str(folder), str(handle)]
                _detached(words, {**os.environ, MARK: job.token}, job.cwd, log, handle)
            finally:
                os.close(log)
        except BaseException:
            Queue(self.root).give_back(ticket)
            raise
        finally:
            os.close(handle)


def processes_of(folder: Path) -> list[int]:
    """The processes of a run that live: the training and what it started; else the one that waits for it to begin."""
    job = read_job(folder)
    told = mark_of(mapping_in(read_bytes(folder / "progress.json")).get("process"))
    if job is None or job.state not in ("waiting", "running"):
        return [] if told is None else list(below(told))
    leader, process = mark_of(job.supervisor), mark_of(job.process)
    if leader is None:
        return []
    sure = bool(leader.lives())
    found = {*members(leader.pid, (MARK, job.token), sure=sure)} - {leader.pid}
    if process is not None:
        found |= {*below(process)}
    return sorted(found) or ([leader.pid] if sure else [])


def _program() -> list[str]:
    return [sys.executable, "-P", "-m", "bitdial", "train"]  # -P: never a module that lies in the working directory


def _detached(
    words: list[str], environment: Mapping[str, str], cwd: str | None = None, log: int | None = None, *inherited: int
) -> None:
    """Start a process that outlives this one, in a session of its own; a zombie of it is nobody's to see."""
    out = subprocess.DEVNULL if log is None else log
    child = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        cwd=cwd,
        env=dict(environment),
        pass_fds=inherited,
        start_new_session=True,
    )
    _reap(child)


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Wait for a child in the background, so that it is no zombie while this process lives."""
    import threading

    threading.Thread(target=child.wait, daemon=True).start()
