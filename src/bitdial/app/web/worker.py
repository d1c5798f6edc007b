"""The one process in which the page has something computed: torch stays out of the server, and memory is bounded.

It starts with the first question, answers one after the other, and ends with the server, however that ends. One that
dies, of memory say, is told of and replaced.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pkgutil import resolve_name
from typing import Any

from bitdial.errors import BitdialError

WORK = "bitdial.app.web.work"
"""Where the functions are that it may be asked for."""
MOST_SECONDS = 600


class Worker:
    """Asks functions of `bitdial.app.web.work`, which take and return plain values."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def ask(self, name: str, *values: Any) -> Any:
        """What a function returns.

        Raises:
            BitdialError: as the function does; the process ended, or took too long.
        """
        with self._lock:
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin)
            pool = self._pool
        try:
            answer: Mapping[str, Any] = pool.submit(_call, name, *values).result(MOST_SECONDS)
        except BrokenProcessPool:
            self._forget(pool)
            raise BitdialError(
                "the process that computes for the page ended, perhaps for lack of memory; try again"
            ) from None
        except TimeoutError:
            self._forget(pool)
            raise BitdialError(f"that took more than {MOST_SECONDS} seconds and was given up; ask for less") from None
        if "error" in answer:
            raise BitdialError(answer["error"])
        return answer["found"]

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._forget(self._pool)

    def _forget(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is pool:
                self._pool = None
        for process in list((pool._processes or {}).values()):  # one that computes for long hears nothing else
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    """End this process when the server is gone: one that was killed cannot tell."""
    server = multiprocessing.parent_process()
    assert server is not None

    def watch() -> None:
        server.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(name: str, *values: Any) -> dict[str, Any]:
    try:
        return {"found": resolve_name(f"{WORK}:{name}")(*values)}
    except BitdialError as error:
        return {"error": str(error)}
