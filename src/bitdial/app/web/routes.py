"""Our own routes: the state of runs as JSON, and files of runs, by names out of a list."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse

from bitdial.app.jobs import JobManager
from bitdial.errors import BitdialError
from bitdial.recipes import RECIPES

REPORT_POLICY = (
    "sandbox allow-scripts allow-popups; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; font-src data:; frame-ancestors 'none'"
)
"""What a report may do: show itself. It has the page's address, but none of its rights."""


def add_routes(app: FastAPI, manager: JobManager) -> None:
    """Add the routes to an application."""

    @app.get("/api/runs")
    def runs() -> JSONResponse:
        return JSONResponse([_plain(each) for each in manager.list()])

    @app.get("/api/runs/{run}")
    def status(run: str) -> JSONResponse:
        return JSONResponse(_plain(_found(lambda: manager.status(run))))

    @app.get("/api/runs/{run}/log")
    def log(run: str, since: int = Query(0, ge=0)) -> JSONResponse:
        return JSONResponse(dataclasses.asdict(_found(lambda: manager.log(run, since))))

    @app.get(f"/train-{next(iter(RECIPES))}")
    def first(request: Request) -> RedirectResponse:
        query = request.url.query
        return RedirectResponse(f"/?{query}" if query else "/")  # every other recipe has its own address

    @app.get("/files/{run}/{name:path}")
    def file(run: str, name: str) -> FileResponse:
        path = _found(lambda: manager.path(run, name))
        if name.endswith(".html"):
            return FileResponse(path, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})
        return FileResponse(
            path,
            media_type="application/octet-stream",
            filename=path.name,
            headers={"content-security-policy": "sandbox; default-src 'none'"},
        )


def _plain(status: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(status), "values": dict(status.values), "alive": status.alive}


def _found(look: Any) -> Any:
    try:
        return look()
    except (BitdialError, OSError) as error:
        raise HTTPException(404, str(error) if isinstance(error, BitdialError) else "it is not there") from None
