"""Whom the server answers, and what: only pages of its own, on its own address, only what the page needs.

A page on the internet can have a browser send requests to this machine. So a request must name this server as its host
(a name that somebody else points here does not), and must come from a page of this server, or from no page at all.
Gradio's own routes are a list of those that the page uses: none that takes a file in, or gives one out.
"""

from __future__ import annotations

import base64
import hmac
import html
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 1 << 20
"""Of the body of a request: forms are small."""
NOTHING = "There is nothing at this address."
_OURS = re.compile(r"/(?:train(?:-[a-z]+)?|run|runs|compare|explore|benchmark|recommend)?|/api/.*|/files/.*")
_GRADIO = re.compile(
    r"/(?:theme\.css|config|favicon\.ico|manifest\.json|robots\.txt|pwa_icon(?:/\d+)?|(?:assets|static|svelte)/[\w./-]+)"
    r"|/gradio_api/(?:info|openapi\.json|startup-events|app_id|theme\.css|queue/(?:join|data)|heartbeat/\w+|cancel|reset"
    r"|(?:call|run|api)/[\w./-]+)"
)
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""What the page may load: nothing from anywhere else."""
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """An ASGI application around another one.

    Args:
        app: what answers the requests that may pass.
        hosts: names that the server may be asked for by.
        any_address: whether a bare IP address is one of them, as it must be where the server listens on all.
        login: user and password that every request must bring, or None.
    """

    def __init__(
        self, app: App, hosts: Iterable[str], *, any_address: bool = False, login: tuple[str, str] | None = None
    ) -> None:
        self._app, self._hosts, self._any_address = app, {each.lower() for each in hosts}, any_address
        self._login = None if login is None else base64.b64encode(":".join(login).encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with a sentence."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        send = _with_headers(_shown(send) if is_visit(scope) and not scope["path"].startswith("/api/") else send)
        refusal = self._refused(scope["method"], scope["path"], headers)
        if refusal is not None:
            return await _refuse(send, *refusal)
        await self._app(scope, _limited(receive), send)

    def _refused(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_own(host):
            return 421, "This server does not answer for that host."
        if self._login is not None:
            given = headers.get("authorization", "").partition(" ")
            if given[0].lower() != "basic" or not hmac.compare_digest(given[2].strip().encode(), self._login):
                return 401, "User and password, please."
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        visit = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
        if (origin is not None and urlsplit(origin).netloc.lower() != host.lower()) or (
            site not in ("same-origin", "none") and not visit
        ):
            return 403, "Requests from other sites are refused."
        if "\0" in path or "\\" in path or any(part in (".", "..") for part in path.split("/")):
            return 404, NOTHING
        if not (_OURS.fullmatch(path) or _GRADIO.fullmatch(path)):
            return 404, NOTHING
        size = headers.get("content-length", "0")
        if not size.isdecimal() or int(size) > MOST_BYTES:
            return 413, "That is more than a form holds."
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_address


def is_visit(scope: Scope) -> bool:
    """Whether a browser wants a page to show."""
    return scope["method"] == "GET" and (b"sec-fetch-mode", b"navigate") in scope["headers"]


def notice(title: str, text: str, more: str = "") -> bytes:
    """A page of one sentence, which needs nothing of Gradio.

    Args:
        title: of the page.
        text: the sentence; it is text, whatever it holds.
        more: HTML that goes into the head.
    """
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width">{more}<title>{html.escape(title)}</title>
<style>body {{ font: 1.1rem/1.5 system-ui, sans-serif; margin: 3rem auto; padding: 0 1.2rem; max-width: 40rem }}</style>
<p role="status" style="overflow-wrap: anywhere">{html.escape(text)}</p>""".encode()


def _shown(send: Send) -> Send:
    """A refusal in JSON or plain text, as a page: somebody followed a link or typed an address."""
    start: Message | None = None
    body = b""

    async def sent(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            kind = dict(message.get("headers", ())).get(b"content-type", b"").partition(b";")[0]
            if message["status"] not in (403, 404) or kind not in (b"application/json", b"text/plain"):
                return await send(message)
            start = message
        elif start is None:
            await send(message)
        else:
            body += message.get("body", b"")
            if not message.get("more_body"):
                page = _page_of(body)
                dropped = (b"content-type", b"content-length", b"content-encoding")
                headers = [each for each in start.get("headers", ()) if each[0].lower() not in dropped]
                headers += [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"%d" % len(page))]
                await send({**start, "headers": headers})
                await send({"type": "http.response.body", "body": page})

    return sent


def _page_of(body: bytes) -> bytes:
    try:
        told = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        told = body.decode("utf-8", "replace")
    text = told if isinstance(told, str) and told.strip() not in ("", "Not Found") else NOTHING
    ways = '<p><a href="/">Train</a> · <a href="/runs">Runs</a></html>'
    return notice("Not found · bitdial", text[:500]) + ways.encode()


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="bitdial", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


def _limited(receive: Receive) -> Receive:
    """What a request brings, cut off where it brings more than it said it would."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > MOST_BYTES else message

    return limited


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            there = {name.lower() for name, _ in headers}
            headers += [(n.encode(), v.encode()) for n, v in _HEADERS.items() if n.encode() not in there]
            message = {**message, "headers": headers}
        await send(message)

    return sent
