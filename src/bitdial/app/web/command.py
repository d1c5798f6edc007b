"""The command ``bitdial app``: the page in a browser."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from bitdial.configuration import Config, load_config
from bitdial.errors import BitdialError

PROG = "bitdial app"
LOCAL = ("127.0.0.1", "localhost", "::1")
PASSWORD = "BITDIAL_APP_PASSWORD"
FIRST, LAST = 7860, 7959
"""Ports that are tried in turn where none is asked for."""


class AppConfig(Config):
    """Open a page in the browser to train, watch, compare, explore, benchmark and ask for advice without code.

    Runs go on when the page or this server is closed: started again, it shows them as they are.
    """

    runs: Path = Path("runs")
    """Folder of the runs that are shown, and that new ones go to."""
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own only together with --auth."""
    port: int | None = Field(None, ge=0, le=65535)
    """Port to listen on, 0 for any that is free; by default 7860, or the next one that is free."""
    auth: str | None = None
    """user:FILE: who may come in; the file holds the password alone. Only user: the password is in the environment, as
    BITDIAL_APP_PASSWORD."""
    share: bool = False
    """Also reach the page from the internet, through a tunnel of Gradio's makers; only together with --auth."""
    root: list[Path] = []
    """Folders in which options may name files of this machine: data sets, own networks. Without one, paths lie below
    the runs, and no file.py:function can be named."""

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if self.auth is None and (self.share or self.host not in LOCAL):
            asked = "share" if self.share else f"host {self.host}"
            raise BitdialError(
                f"expected --auth user:FILE together with {asked}, got none: whoever reaches the page can start "
                "programs here; write the password into a file of its own and name that"
            )
        return self


def login_of(auth: str | None) -> tuple[str, str] | None:
    """User and password of ``user:FILE``, or of ``user`` and the environment.

    Raises:
        BitdialError: no user, no password, a file that cannot be read.
    """
    if auth is None:
        return None
    user, colon, file = auth.partition(":")
    if not user:
        raise BitdialError(f"--auth: expected user:FILE, got {auth!r:.60}; write a name before the colon")
    if not colon:
        password = os.environ.get(PASSWORD, "")
        if not password:
            raise BitdialError(f"--auth: expected user:FILE, or a password in {PASSWORD}, got neither; set one of them")
        return user, password
    try:
        password = Path(file).expanduser().read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BitdialError(
            f"--auth: expected a file that holds the password after the colon, got {file!r:.60} "
            f"({getattr(error, 'strerror', None) or 'not text'}); a password itself is never written there"
        ) from error
    if not password or "\n" in password:
        raise BitdialError(
            f"--auth: expected one line with the password in {file}, got {'several' if password else 'none'}"
        )
    _warn_of_rights(file)
    return user, password


def _warn_of_rights(file: str) -> None:
    path = Path(file).expanduser()
    if os.name == "posix" and path.stat().st_mode & 0o077:
        told = f"others on this machine may read {file}, which holds the password; run: chmod 600 {file}"
        print(f"warning: {told}", file=sys.stderr)


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens on a port, or on the first free one.

    Raises:
        BitdialError: the port is taken or not allowed, all are, or the host is no address of this machine.
    """
    for number in (port,) if port is not None else range(FIRST, LAST + 1):
        try:
            family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][0]
            made = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise BitdialError(
                f"--host: expected an address of this machine, got {host!r:.60} ({error.strerror})"
            ) from error
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, number))
            made.listen(1024)
            return made
        except OSError as error:
            made.close()
            if error.errno == errno.EADDRNOTAVAIL:
                raise BitdialError(
                    f"--host: expected an address of this machine, got {host!r:.60} ({error.strerror})"
                ) from error
            if port is not None:
                raise BitdialError(
                    f"--port: expected a free port, got {port} ({error.strerror}); leave --port out to take the next "
                    "free one"
                ) from error
    raise BitdialError(f"expected a free port between {FIRST} and {LAST}, got none; name one with --port")


def run(argv: list[str]) -> int:
    """Serve the page until Ctrl-C; return the exit status."""
    options = load_config(AppConfig, {}, argv, prog=PROG)
    login = login_of(options.auth)
    for root in options.root:
        if not root.expanduser().is_dir():
            raise BitdialError(f"--root: expected a folder at {root}, got {'a file' if root.exists() else 'nothing'}")
    if options.runs.exists() and not options.runs.is_dir():
        raise BitdialError(f"--runs: expected a folder at {options.runs}, got a file; name another")
    if importlib.util.find_spec("gradio") is None:
        raise BitdialError("`bitdial app` needs gradio, which is not installed; install bitdial[app]")
    with listen(options.host, options.port) as taken:  # before anything slow is loaded
        from bitdial.app.web.server import serve

        return serve(options, taken, login)
