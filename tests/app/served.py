"""A server of the app in a process of its own, on a free port, as a user starts it, and its pages in a browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class Served:
    """A server that runs.

    Attributes:
        url: without the slash at the end.
        process: of the server.
        runs: names of runs that a test has put there, by what they are.
    """

    runs: Mapping[str, str]

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


class Pages:
    """Opens tabs, and keeps what they asked the network for and what they complained of."""

    def __init__(self, browser: Any, served: Served) -> None:
        self.browser, self.served = browser, served
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.contexts: list[Any] = []

    def open(self, path: str, width: int = 1280, scheme: str = "light") -> Any:
        context = self.browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self.served.url + path)
        page.wait_for_selector("h1, .recipes a")
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()
