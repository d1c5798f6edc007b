"""The process that stands behind a job: it waits for the devices, trains, and notes how that ended.

``python -m bitdial.app.supervisor FOLDER HANDLE`` leads the job's process group and holds its ticket, which the
training inherits. Whoever started it may end: nothing here depends on them. Where it is killed itself, the training
goes on, and whoever looks at the run next finds how it ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from bitdial.app.output import bound, last_lines
from bitdial.app.queue import Queue
from bitdial.app.records import Job
from bitdial.app.store import change_job, read_job
from bitdial.processes import ProcessMark, members, send
from bitdial.training.run_folder import OUTPUT

POLL_SECONDS = 0.3
HEARTBEAT_SECONDS = 15.0
LEFT_BEHIND_SECONDS = 10.0
"""How long what the training has started may outlive it."""
MARK = "BITDIAL_JOB"
"""Environment variable of all processes of a job."""


class Supervisor:
    """Of one job."""

    def __init__(self, folder: Path, handle: int) -> None:
        self.folder, self.handle, self.queue = folder, handle, Queue(folder.parent)
        self.asked = False
        self._beat = 0.0

    def run(self) -> None:
        """To the end of the job."""
        for number in (signal.SIGINT, signal.SIGTERM):  # handlers are not inherited: the training gets the system's
            signal.signal(number, self._ask)
        job = self._change(supervisor=asdict(ProcessMark.here()))
        if job is None:
            return
        try:
            if self._waits(job):
                self._train()
        finally:
            self.queue.give_back(job.ticket)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def _waits(self, job: Job) -> bool:
        """Wait for the devices; return False where the job was stopped or removed meanwhile."""
        while not self._stopped():
            if self.queue.before(job.ticket) is None:
                return True
            self._heartbeat()
            time.sleep(POLL_SECONDS)
        self._change(state="stopped", ended=time.time(), message="stopped before it began")
        return False

    def _stopped(self) -> bool:
        job = read_job(self.folder)
        return self.asked or job is None or job.stop_requested is not None

    def _train(self) -> None:
        started: list[subprocess.Popen[bytes]] = []

        def start(job: Job) -> dict[str, Any]:
            if self.asked or job.stop_requested is not None:
                return {"state": "stopped", "ended": time.time(), "message": "stopped before it began"}
            try:
                child = subprocess.Popen(job.command, stdin=subprocess.DEVNULL, pass_fds=(self.handle,))
            except OSError as error:
                said = f"cannot start {job.command[0]}: {error.strerror}"
                return {"state": "failed", "ended": time.time(), "message": said}
            started.append(child)
            mark = ProcessMark.of(child.pid)
            return {"state": "running", "process": asdict(mark), "started": time.time(), "heartbeat": time.time()}

        try:
            change_job(self.folder, start)
        except OSError as error:  # a full disk, say: nobody could find the process, so it must not stay
            for child in started:
                child.kill()
                child.wait()
            print(f"bitdial: the job cannot be noted in its folder: {error.strerror}", file=sys.stderr, flush=True)
            return
        for child in started:
            self._watch(child)

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        while True:
            try:
                code = child.wait(POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                self._heartbeat()
                self._bound()
        self._clean()
        message = last_lines(self.folder / OUTPUT)

        def end(job: Job) -> dict[str, Any]:
            asked = job.stop_requested is not None or code == 130
            state = "finished" if code == 0 else "stopped" if asked else "failed"
            return {
                "state": state,
                "ended": time.time(),
                "exit_code": code,
                "message": "" if code == 0 else ended_by(code, message),
            }

        with suppress(OSError):  # whoever looks next finds that the process is gone
            change_job(self.folder, end)

    def _clean(self) -> None:
        """End what the training left behind."""
        until = time.monotonic() + LEFT_BEHIND_SECONDS
        for number in (signal.SIGTERM, signal.SIGKILL):
            while left := self._left():
                if time.monotonic() > until:
                    send(left, number)
                    until = time.monotonic() + LEFT_BEHIND_SECONDS / 2
                    break
                time.sleep(POLL_SECONDS)

    def _left(self) -> list[int]:
        mark = (MARK, os.environ.get(MARK, ""))
        return [pid for pid in members(os.getpgrp(), mark, sure=True) if pid != os.getpid()]

    def _heartbeat(self) -> None:
        if time.monotonic() - self._beat > HEARTBEAT_SECONDS:
            self._beat = time.monotonic()
            self._change(heartbeat=time.time())

    def _bound(self) -> None:
        with suppress(OSError):
            bound(self.folder / OUTPUT)

    def _change(self, **new: Any) -> Job | None:
        try:
            return change_job(self.folder, lambda _: new)
        except OSError:  # the folder is gone, or the disk is full
            return read_job(self.folder)


def ended_by(code: int, message: str) -> str:
    """Why a process ended, in words, before its last lines."""
    if code >= 0:
        return message or f"ended with status {code}, and said nothing"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}{'; its last lines:' if message else ''}\n{message}".strip()


def main(words: Sequence[str]) -> int:
    """Stand behind the job in a folder."""
    Supervisor(Path(words[0]), int(words[1])).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
