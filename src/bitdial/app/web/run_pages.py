"""The pages of runs: one as it trains, all of them, and several compared. Nothing is kept here: all is read anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from bitdial.app.jobs import JobManager
from bitdial.app.store import folder_of
from bitdial.app.web import views
from bitdial.errors import BitdialError
from bitdial.training.run_folder import RunFolder
from bitdial.wording import bytes_text

TAIL = 20_000
"""Bytes of a run's output that are shown."""
MOST_COMPARED = 12
SECONDS = 1.0
"""Between two looks at a run."""


def asked(request: gr.Request) -> str:
    """The run that the address names."""
    return str(dict(request.query_params).get("run", ""))


def run_page(manager: JobManager) -> None:
    """One run: how far it is, its curves and output; buttons to stop, go on and remove it."""
    progress = gr.HTML(elem_classes="head")
    with gr.Row(elem_classes="buttons"):
        stop = gr.Button("Stop", visible=False, elem_id="stop")
        resume = gr.Button("Resume", variant="primary", visible=False, elem_id="resume")
        remove = gr.Button("Remove", visible=False, elem_id="remove")
    with gr.Row(visible=False, elem_classes="sure") as sure:
        gr.HTML("<p>Remove the folder of this run with everything in it?</p>")
        yes = gr.Button("Remove it", variant="stop", elem_id="remove-yes")
        no = gr.Button("Keep it", elem_id="remove-no")
    told = gr.HTML()
    files, charts, output = gr.HTML(), gr.HTML(), gr.HTML()
    timer = gr.Timer(SECONDS)
    seen = gr.Textbox(visible=False)
    shown = [progress, charts, stop, resume, remove, files, output, timer, seen]

    def look(before: str, request: gr.Request) -> list[Any]:
        run = asked(request)
        try:
            status = manager.status(run)
            mark = f"{status.state} {status.doing} {status.arm} {status.step} {status.percent}"
            first, moved = not before, mark != before
            text, cut = _tail(manager, run)
            alive = status.alive
            drawn = views.view("charts", views.charts_of({"": _rows(manager, run)}), alive) if moved else gr.skip()
            left = views.files(run, manager.files(run)) if moved or not alive else gr.skip()
        except (BitdialError, OSError) as error:
            nothing = [gr.update(visible=False)] * 3
            said = str(error) if isinstance(error, BitdialError) else "the folder of this run is gone"
            return [_none(said), "", *nothing, "", "", gr.Timer(active=False), ""]
        buttons = [
            gr.update(visible=alive, interactive=status.state != "stopping"),
            gr.update(visible=not alive and status.state != "finished"),
            gr.update(visible=not alive),
        ]
        active = gr.Timer(active=alive) if first or not alive else gr.skip()
        return [
            views.progress(status),
            drawn,
            *buttons,
            left,
            views.view("log", text, cut, alive and status.managed),
            active,
            mark,
        ]

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on(None, look, seen, shown, **quiet)
    timer.tick(look, seen, shown, trigger_mode="once", concurrency_limit=4, **quiet)

    def asking(what: Any) -> Any:
        def do(request: gr.Request) -> tuple[str, Any]:
            try:
                what(asked(request))
            except (BitdialError, OSError) as error:
                return views.view("fault", str(error)), gr.skip()
            return "", gr.Timer(active=True)

        return do

    for button, what in ((stop, manager.stop), (resume, manager.resume)):
        button.click(asking(what), None, [told, timer], **quiet).then(look, seen, shown, **quiet)
    remove.click(lambda: gr.update(visible=True), None, sure, **quiet)
    no.click(lambda: gr.update(visible=False), None, sure, **quiet)
    gone = gr.Textbox(visible=False)

    def drop(request: gr.Request) -> tuple[str, str]:
        try:
            manager.remove(asked(request))
        except (BitdialError, OSError) as error:
            return views.view("fault", str(error)), ""
        return "", "gone"

    yes.click(drop, None, [told, gone], **quiet).then(
        None, gone, None, js="(gone) => { if (gone) window.location.assign('/runs'); }", api_visibility="private"
    )


def runs_page(manager: JobManager) -> None:
    """All runs, also those that were started elsewhere."""
    table = gr.HTML(elem_classes="head")

    def look() -> str:
        here = Path.cwd()
        root = manager.root.relative_to(here) if manager.root.is_relative_to(here) else manager.root
        return views.view("runs", manager.list(), str(root))

    gr.on(None, look, None, table, show_progress="hidden", api_visibility="private")
    again = gr.Button("Look again", elem_id="again", elem_classes="small", size="sm")
    again.click(look, None, table, show_progress="hidden", api_visibility="private")


def compare_page(manager: JobManager) -> None:
    """Several runs in one table and one set of drawings."""
    found = gr.HTML(elem_classes="head")

    def look(request: gr.Request) -> str:
        params: Any = request.query_params
        names = params.getlist("run") if hasattr(params, "getlist") else [params.get("run", "")]
        names = list(dict.fromkeys(name for name in names if name))
        problems = [] if names else ["No runs were ticked: go back and tick two or more."]
        if len(names) > MOST_COMPARED:
            problems.append(f"Shown are the first {MOST_COMPARED} of {len(names)} runs.")
        rows, configs, series = [], [], {}
        for name in names[:MOST_COMPARED]:
            try:
                rows.append(manager.status(name))
                configs.append(_options(manager, name))
                series[name] = _rows(manager, name)
            except (BitdialError, OSError) as error:
                problems.append(str(error))
                rows, configs = rows[: len(series)], configs[: len(series)]
        return views.view("compare", rows, views.differing(configs), views.charts_of(series), problems)

    gr.on(None, look, None, found, show_progress="hidden", api_visibility="private")


def _rows(manager: JobManager, run: str) -> list[dict[str, Any]]:
    return views.all_rows(lambda since: manager.series(run, since))


def _tail(manager: JobManager, run: str) -> tuple[str, str]:
    part = manager.log(run)
    text = part.text[-TAIL:]
    return text, bytes_text(TAIL) if part.start or len(text) < len(part.text) else ""


def _options(manager: JobManager, run: str) -> dict[str, Any]:
    return RunFolder(folder_of(manager.root, run)).load_config()


def _none(said: str) -> str:
    return f"<h1 class='of-runs'>No run</h1>{views.view('fault', said)}<p><a href='/runs'>All runs</a></p>"
