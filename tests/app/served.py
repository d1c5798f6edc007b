"""A server of the app in a process of its own, on a free port, as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Served:
    """A server that runs.

    Attributes:
        url: without the slash at the end.
        process: of the server.
    """

    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        self.folder, self.words, self.environment = folder, words, environment
        self.log = folder / "app.log"
        self.start()

    def start(self) -> None:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bitdial", "app", *(self.words or ("--port", "0"))],
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        for _ in range(900):
            if found := re.search(r"bitdial app: (http://\S+)/\n", self.log.read_text()):
                self.url = found[1]
                self.wait()
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        raise AssertionError(f"no address: {self.log.read_text()}")

    def wait(self) -> None:
        """Until its pages are made: it answers before."""
        with suppress(urllib.error.HTTPError):  # of one with a password
            urllib.request.urlopen(f"{self.url}/api/runs", timeout=90).close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def serving(folder: Path, *words: str, **environment: str) -> Iterator[Served]:
    served = Served(folder, *words, **environment)
    try:
        yield served
    finally:
        served.stop()
