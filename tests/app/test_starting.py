"""What is answered before the pages are made."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from bitdial.app.web.starting import Starting

VISIT = (b"sec-fetch-mode", b"navigate")


class Pages:
    """Stands in for the pages, and tells what became of them."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"the page"})

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.told.append("begun")
        yield
        self.told.append("ended")


async def ask(app: Starting, *headers: tuple[bytes, bytes], method: str = "GET") -> tuple[int, bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": method, "path": "/", "headers": list(headers)}, None, send)  # type: ignore[arg-type]
    return sent[0]["status"], sent[1]["body"]


async def live(app: Starting, during: Callable[[], Any]) -> None:
    """A server's life around something."""
    commands: asyncio.Queue[Any] = asyncio.Queue()
    answers: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan"}, commands.get, answers.put))
    await commands.put({"type": "lifespan.startup"})
    assert (await answers.get())["type"] == "lifespan.startup.complete"
    await during()
    await commands.put({"type": "lifespan.shutdown"})
    assert (await answers.get())["type"] == "lifespan.shutdown.complete"
    await task


def test_a_visit_is_answered_at_once_and_whatever_else_waits() -> None:
    pages, go = Pages(), threading.Event()

    async def scene() -> None:
        app = Starting(lambda: (go.wait(30), pages)[1], lambda: None)

        async def during() -> None:
            status, body = await ask(app, VISIT)
            assert (status, b"bitdial starts" in body, b'http-equiv="refresh"' in body) == (503, True, True)
            waiting = [asyncio.create_task(ask(app, method=method)) for method in ("GET", "POST")]
            posted = asyncio.create_task(ask(app, VISIT, method="POST"))
            await asyncio.sleep(0.05)
            assert not any(each.done() for each in (*waiting, posted))
            assert pages.told == []
            go.set()
            assert await asyncio.gather(*waiting, posted) == [(200, b"the page")] * 3
            assert await ask(app, VISIT) == (200, b"the page")
            assert pages.told == ["begun"]

        await live(app, during)
        assert pages.told == ["begun", "ended"]

    asyncio.run(scene())


def test_pages_that_cannot_be_made_end_the_server_with_the_reason() -> None:
    def make() -> Pages:
        raise ImportError("half installed")

    async def scene() -> None:
        failed = asyncio.Event()
        app = Starting(make, failed.set)
        await live(app, failed.wait)
        assert str(app.error) == "half installed"

    asyncio.run(scene())


def test_a_server_ends_without_waiting_for_its_pages() -> None:
    go = threading.Event()

    async def scene() -> None:
        app = Starting(lambda: (go.wait(30), Pages())[1], lambda: None)
        await live(app, lambda: asyncio.sleep(0))

    asyncio.run(scene())
    go.set()
