"""The command ``bitdial runs``: the runs of a folder, and what can be done with one."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from bitdial.app.jobs import GRACE_SECONDS, JobManager
from bitdial.app.records import RunStatus
from bitdial.configuration import Config, load_config
from bitdial.errors import BitdialError, suggest
from bitdial.terminal import terminal
from bitdial.wording import bytes_text, duration

PROG = "bitdial runs"
POLL_SECONDS = 0.5


class RunsConfig(Config):
    """List the runs of a folder, the newest first: how each stands, its best score, the size of its file, its time.

    `bitdial runs watch ID` follows one to its end, `stop ID` asks it to save and end, `resume ID` goes on with it in
    the background, `rm ID` deletes its folder. Runs that were started by hand or in the browser are there too.
    """

    runs: Path = Path("runs")
    """Folder of the runs."""


class RunConfig(RunsConfig):
    """Do something with one run."""

    run: str
    """Id of the run: the name of its folder, as `bitdial runs` lists it."""


class WatchConfig(RunConfig):
    """Follow a run to its end: its output, or how far it is. Ctrl-C ends the watching, never the run."""


class StopConfig(RunConfig):
    """Ask a run to stop, as Ctrl-C does: it saves first, and can be resumed. One that waits leaves the queue."""

    grace: float = Field(GRACE_SECONDS, ge=0, le=86400)
    """Seconds that it has for that before it is ended (SIGTERM, and SIGKILL after a third as long)."""


class ResumeConfig(RunConfig):
    """Go on with a run that was stopped or failed, in the background, as soon as its device is free."""


class RmConfig(RunConfig):
    """Delete the folder of a run with all that is in it, for good; one that waits or trains is refused."""

    yes: bool = False
    """Do not ask."""


def run(argv: list[str]) -> int:
    """List runs, or do what the words say with one; return the exit status."""
    if argv and argv[0] in ACTIONS:
        name, config = argv[0], ACTIONS[argv[0]][0]
        asked = load_config(config, {}, argv[1:], prog=f"{PROG} {name}", positional="run")
        return ACTIONS[name][1](JobManager(asked.runs), asked)
    if argv and not argv[0].startswith("-"):
        hint = suggest(argv[0], ACTIONS) or f"; there are: {', '.join(ACTIONS)}"
        raise BitdialError(f"expected what to do with a run, got '{argv[0]}'{hint}")
    options = load_config(RunsConfig, {}, argv, prog=PROG)
    if not options.runs.exists():
        raise BitdialError(f"expected a folder of runs at {options.runs}, got nothing; give --runs DIR")
    found = JobManager(options.runs).list()
    if found:
        show(found)
    else:
        print(f"no runs under {options.runs}; `bitdial train cyclic` makes one")
    return 0


def show(found: list[RunStatus]) -> None:
    """Print runs as a table, and what the last ones failed of."""
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("run", overflow="fold", max_width=24)
    for name in ("state", "recipe", "model"):
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for name in ("best", "file", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        cells = [each.id, _state(each), each.recipe, each.model, _score(each), _size(each), _time(each.seconds)]
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def watch(jobs: JobManager, options: WatchConfig) -> int:
    """Follow a run to its end; return 0 if it finished, 1 if not."""
    console, run = terminal(), options.run
    status = jobs.status(run)
    part = jobs.log(run)
    console.print(f"{run}: {told(status)}; Ctrl-C leaves it running")
    try:
        with console.status("") as line:
            while True:
                status = jobs.status(run)  # before the log: what it says at last is then in it
                while part.text:
                    console.print(part.text.rstrip("\n"), soft_wrap=True)
                    part = jobs.log(run, part.next)
                if not status.alive:
                    break
                line.update(_plain_line(told(status)))
                time.sleep(POLL_SECONDS)
                part = jobs.log(run, part.next)
    except KeyboardInterrupt:
        how = shlex.join(["bitdial", "runs", "stop", run, *_where(jobs)])
        print(f"\n{run} goes on; `{how}` stops it", file=sys.stderr)
        return 130
    console.print(f"{run}: {told(status)}", soft_wrap=True)
    return 0 if status.state == "finished" else 1


def stop(jobs: JobManager, options: StopConfig) -> int:
    """Ask a run to stop, and wait until it has."""
    jobs.stop(options.run, options.grace)
    print(f"{options.run} was asked to stop; it saves first", file=sys.stderr)
    try:
        while (status := jobs.status(options.run)).alive:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        print(f"\n{options.run} will stop all the same", file=sys.stderr)
        return 130
    print(f"{options.run}: {told(status)}")
    return 0


def resume(jobs: JobManager, options: ResumeConfig) -> int:
    """Go on with a run in the background."""
    jobs.resume(options.run)
    how = shlex.join(["bitdial", "runs", "watch", options.run, *_where(jobs)])
    print(f"{options.run}: {told(jobs.status(options.run))}; `{how}` follows it")
    return 0


def rm(jobs: JobManager, options: RmConfig) -> int:
    """Delete a run."""
    status = jobs.status(options.run)
    if status.alive:
        jobs.remove(options.run)  # says it
    if not options.yes:
        if not sys.stdin.isatty():
            raise BitdialError(f"expected a yes to deleting {options.run}, and there is nobody to ask; give --yes")
        print(f"delete {jobs.root / options.run} ({status.state}) with all that is in it? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return 1
    jobs.remove(options.run)
    print(f"{options.run} is deleted")
    return 0


def told(status: RunStatus) -> str:
    """How a run stands, in a line, or with the last lines of its output where it failed."""
    if status.state == "waiting":
        after = f"the end of {status.waiting_for}" if status.waiting_for else "its turn"
        return f"waiting for {after} ({status.device})"
    if not status.alive:
        score = f", {_score(status)}" if status.score is not None else ""
        time_ = f" after {_time(status.seconds)}" if status.seconds is not None else ""
        return f"{status.state}{time_}{score}" + (f"; {status.message}" if status.message else "")
    parts = [status.state, status.doing if status.doing != "training" else "", status.arm]
    if status.step is not None:
        parts.append(f"step {status.step}" + (f"/{status.total}" if status.total is not None else ""))
    parts += [f"{name} {status.values[name]:.3g}" for name in ("loss", "bits", "gamma") if name in status.values]
    if status.percent is not None:
        parts.append(f"{status.percent:.0f}%")
    if status.seconds_left is not None:
        parts.append(f"{_time(status.seconds_left)} left")
    return "  ".join(part for part in parts if part)


def _plain_line(text: str) -> Any:
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ellipsis")


def _where(jobs: JobManager) -> list[str]:
    return [] if jobs.root == Path("runs").absolute() else ["--runs", str(jobs.root)]


def _state(status: RunStatus) -> str:
    if status.state == "running" and status.percent is not None:
        return f"{status.percent:.0f}% done"
    return status.state


def _score(status: RunStatus) -> str:
    return "" if status.score is None else status.score.told()


def _size(status: RunStatus) -> str:
    size = None if status.score is None else status.score.bytes
    return "" if size is None else bytes_text(size)


def _time(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


ACTIONS: dict[str, tuple[type[RunConfig], Callable[[JobManager, Any], int]]] = {
    "watch": (WatchConfig, watch),
    "stop": (StopConfig, stop),
    "resume": (ResumeConfig, resume),
    "rm": (RmConfig, rm),
}
"""What can be done with a run -> its options, and what does it."""
