"""The server: it answers at once, and makes the pages meanwhile; the guard is around all of it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket as sockets
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from bitdial.app.jobs import JobManager
from bitdial.app.web.command import LOCAL, AppConfig
from bitdial.app.web.guard import Guard
from bitdial.app.web.rooted import Roots
from bitdial.app.web.starting import Made, Starting
from bitdial.app.web.worker import Worker
from bitdial.errors import BitdialError


def serve(options: AppConfig, socket: sockets.socket, login: tuple[str, str] | None) -> int:
    """Answer requests until Ctrl-C; return the exit status."""
    options.runs.mkdir(parents=True, exist_ok=True)
    manager, worker = JobManager(options.runs), Worker()
    port = socket.getsockname()[1]
    everywhere = _is_everywhere(options.host)
    hosts = [*LOCAL, options.host]
    if everywhere:
        hosts += [sockets.gethostname(), sockets.getfqdn()]
    shared = _shared(port) if options.share else None
    if shared is not None:
        hosts.append(urlsplit(shared).hostname or "")
    roots = Roots(manager.root, tuple(each.expanduser().absolute() for each in options.root))

    def make() -> Made:
        from bitdial.app.web.application import Application

        return Application(manager, worker, roots)

    starting = Starting(make, lambda: setattr(server, "should_exit", True))
    app = Guard(starting, hosts, any_address=everywhere, login=login)
    name = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{'127.0.0.1' if everywhere else name}:{port}/"
    settings = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, ws="none")
    server = _Server(settings, [f"bitdial app: {address}", *([f"shared: {shared}"] if shared else [])])
    try:
        server.run(sockets=[socket])
    except KeyboardInterrupt:
        pass
    finally:
        worker.close()
    if starting.error is not None:
        raise starting.error
    print("\nclosed; runs go on, `bitdial runs` lists them", file=sys.stderr)
    return 0


class _Server(uvicorn.Server):
    """Tells its address once it answers."""

    def __init__(self, config: uvicorn.Config, lines: Sequence[str]) -> None:
        super().__init__(config)
        self._lines = lines

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        await asyncio.sleep(0)
        for line in self._lines:
            print(line, flush=True)
        print("Ctrl-C closes the page; runs go on", file=sys.stderr, flush=True)


def _is_everywhere(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _shared(port: int) -> str:
    from gradio.networking import setup_tunnel

    try:
        import secrets

        return setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
    except Exception as error:
        raise BitdialError(
            f"--share: expected a tunnel of Gradio's makers, got {' '.join(str(error).split())[:200]}; check the "
            "connection to the internet, or leave it out"
        ) from error
