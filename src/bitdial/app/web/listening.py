"""The socket that the server listens on, taken before anything slow is loaded."""

from __future__ import annotations

import errno
import socket

from bitdial.errors import BitdialError

FIRST, LAST = 7860, 7959
"""Ports that are tried in turn where none is asked for."""


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
