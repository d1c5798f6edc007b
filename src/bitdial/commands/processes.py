"""Work in several processes that leaves nothing behind: not when it is interrupted, nor when one of them is killed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_GRACE = 5.0  # seconds that a process has to take away the file that it is writing


def in_processes(
    work: Callable[[T], R], tasks: Sequence[T], count: int, prepare: Callable[[], object]
) -> Generator[tuple[T, R | None]]:
    """Give each task with its result, as they are done; None for one whose process was killed, of lack of memory say.

    Processes end with the iterator, and also where this process is killed.

    Args:
        work: what is done with a task; it and `prepare` are functions of a module.
        tasks: in the order in which they are begun.
        count: of processes; 1: this one does it all, and is not prepared.
        prepare: is called at the start of each process.
    """
    if count == 1:
        yield from ((task, work(task)) for task in tasks)
        return
    left, busy = iter(tasks), dict[Connection, tuple[SpawnProcess, T]]()
    started = list[SpawnProcess]()
    try:
        for task in _first(left, count):
            _start((work, prepare), task, busy, started)
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                process, task = busy.pop(connection)
                result, alive = None, True
                try:
                    result = connection.recv()
                except (EOFError, OSError):
                    alive = False
                for further in _first(left, 1):
                    if alive:
                        busy[connection] = process, further
                        _send(connection, further)
                    else:
                        _start((work, prepare), further, busy, started)
                yield task, result
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join(_GRACE)
            process.kill()


def _first(left: Iterator[T], count: int) -> Iterator[T]:
    return (task for _, task in zip(range(count), left, strict=False))


def _start(
    functions: tuple[Callable[[T], Any], Callable[[], object]],
    task: T,
    busy: dict[Connection, tuple[SpawnProcess, T]],
    started: list[SpawnProcess],
) -> None:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, *functions), daemon=True)
    with _without_interrupts():
        process.start()
        started.append(process)
    theirs.close()  # so that the other end is closed when the process ends
    busy[ours] = process, task
    _send(ours, task)


def _send(connection: Connection, task: Any) -> None:
    with suppress(OSError):  # that it has ended is found when its result is asked for
        connection.send(task)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process that starts here never gets Ctrl-C: it is for its parent alone, which gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _serve(connection: Connection, work: Callable[[Any], Any], prepare: Callable[[], object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    prepare()
    with suppress(EOFError, OSError):  # its parent has ended, or wants no more
        while True:
            connection.send(work(connection.recv()))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # once is enough: a second one must not meet what cleans up
    raise SystemExit(128 + number)
