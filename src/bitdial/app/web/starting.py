"""What answers while the pages are made: gradio takes seconds to load, and the address is told before that."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Protocol

from bitdial.app.web.guard import Message, Receive, Scope, Send, is_visit, notice


class Made(Protocol):
    """What is made: an ASGI application, and what is around its time of service."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

    def lifespan(self) -> AbstractAsyncContextManager[object]:
        """What begins before the first request and ends after the last one."""


class Starting:
    """An ASGI application that another one, made in a thread meanwhile, takes the place of.

    Until then a visit is answered by a page that looks again by itself; any other request waits.

    Args:
        make: makes it.
        failed: is told in the loop, once, that it could not be made; `error` has the reason.
    """

    def __init__(self, make: Callable[[], Made], failed: Callable[[], None]) -> None:
        self._make, self._failed = make, failed
        self._made: Made | None = None
        self._ready, self._closed = asyncio.Event(), asyncio.Event()
        self.error: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        if self._made is None and is_visit(scope):
            return await _wait_a_moment(send)
        await self._ready.wait()
        if self._made is not None:
            await self._made(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        serving = asyncio.create_task(self._serve())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._closed.set()
        await serving
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        made = list[Made]()

        def work() -> None:
            try:
                made.append(self._make())
            except BaseException as error:
                self.error = error
            with suppress(RuntimeError):  # the loop has ended meanwhile, by Ctrl-C
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=work, daemon=True).start()  # a daemon: Ctrl-C need not wait for it
        await _first(done, self._closed)
        if not made:
            self._ready.set()
            return None if self.error is None else self._failed()
        async with made[0].lifespan():
            self._made = made[0]
            self._ready.set()
            await self._closed.wait()


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


_PAGE = notice("bitdial starts", "bitdial starts ...", '<meta http-equiv="refresh" content="1">')


async def _wait_a_moment(send: Send) -> None:
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store"), (b"retry-after", b"1")]
    start: Message = {"type": "http.response.start", "status": 503, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": _PAGE})
