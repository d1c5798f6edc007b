"""The pages and routes as one application: Gradio inside of ours."""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractAsyncContextManager

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from fastapi import FastAPI

from bitdial.app.jobs import JobManager
from bitdial.app.web.guard import Receive, Scope, Send
from bitdial.app.web.pages import build, look
from bitdial.app.web.rooted import Roots
from bitdial.app.web.routes import add_routes
from bitdial.app.web.worker import Worker

MOST_SESSIONS = 64
"""Of which Gradio keeps about a megabyte each; nothing of ours is in there, so the oldest may go."""
_IDLE_SECONDS = 0.05
"""Between two looks at an empty queue. Gradio's own millisecond takes a twentieth of a core from the runs."""


class Application:
    """All that is answered, once it may pass the guard.

    Args:
        manager: of the runs.
        worker: computes for the pages.
        roots: where options may name files.
    """

    def __init__(self, manager: JobManager, worker: Worker, roots: Roots) -> None:
        self._inner = FastAPI(title="bitdial", docs_url=None, redoc_url=None, openapi_url=None)
        add_routes(self._inner, manager)
        blocks = build(manager, worker, roots)
        blocks.queue(default_concurrency_limit=8, max_size=200)
        blocks._queue.sleep_when_free = blocks._queue.progress_update_sleep_when_free = _IDLE_SECONDS
        blocks.state_session_capacity = MOST_SESSIONS
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "SSR mode is not supported")  # it is not asked for
            _mount(self._inner, blocks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._inner(scope, receive, send)

    def lifespan(self) -> AbstractAsyncContextManager[object]:
        """Gradio's queue, from before the first request to after the last one."""
        return self._inner.router.lifespan_context(self._inner)


def _mount(inner: FastAPI, blocks: gr.Blocks) -> None:
    theme, css, head = look()
    gr.mount_gradio_app(
        inner,
        blocks,
        path="/",
        theme=theme,
        css=css,
        head=head,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        show_error=True,
        allowed_paths=[],
        max_file_size=0,
    )
