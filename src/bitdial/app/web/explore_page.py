"""The page Explore: a finished run's network under sliders of widths, or a codec's pictures over lambda."""

from __future__ import annotations

from typing import Any

import gradio as gr

from bitdial.app.jobs import JobManager
from bitdial.app.store import folder_of
from bitdial.app.web import views
from bitdial.app.web.worker import Worker
from bitdial.errors import BitdialError

GROUPS = 6
"""Sliders of groups of layers; `bitdial.app.web.work` makes no more groups."""
IMAGES = 500


def explore_page(manager: JobManager, worker: Worker) -> None:
    """Choose a run, turn its dial, see what that costs."""
    gr.HTML(
        "<h1>Explore</h1><p class='summary'>Turns the dial of a finished run's network: accuracy, size and what it "
        "predicts at each width. Of codecs: original and reconstruction over lambda.</p>",
        elem_classes="head",
    )
    with gr.Row(elem_classes="fields"):
        run = gr.Dropdown([], label="run", info="Finished runs.", allow_custom_value=True, elem_id="explore-run")
        arm = gr.Dropdown([], label="network", info="Which of the run's.", visible=False, allow_custom_value=True)
        images = gr.Slider(10, IMAGES, 100, step=10, label="test images", info="To measure accuracy on.", visible=False)
        example = gr.Number(0, label="example", info="Number of the test image that is shown.", precision=0, minimum=0)
    everything = gr.Slider(1, 32, 8, step=1, label="width of all layers, in bits", visible=False, elem_id="width")
    with gr.Accordion("Widths of groups of layers", open=False, visible=False) as folded:
        groups = [gr.Slider(1, 32, 8, step=1, label=f"group {n + 1}", visible=False) for n in range(GROUPS)]
    names = gr.JSON([], visible=False)
    button = gr.Button("Measure", variant="primary", elem_id="explore", visible=False)
    found = gr.HTML(elem_classes="found")
    opened = [arm, images, everything, folded, *groups, names, button, found]
    nothing = [gr.update(visible=False)] * (4 + GROUPS)

    def begin(request: gr.Request) -> Any:
        done = [each.id for each in manager.list() if each.state == "finished"]
        asked = dict(request.query_params).get("run")
        return gr.update(choices=done, value=asked if asked else done[0] if done else None)

    def open_run(chosen: str) -> list[Any]:
        if not chosen:
            return [*nothing, [], gr.update(visible=False), "<p class='soft'>No run is finished yet.</p>"]
        try:
            about = worker.ask("about", str(folder_of(manager.root, chosen)))
        except BitdialError as error:
            return [*nothing, [], gr.update(visible=False), views.view("fault", str(error))]
        sliders = [gr.update(visible=False)] * GROUPS
        for number, (name, layers) in enumerate(about["groups"].items()):
            count = f"{len(layers)} layer{'s' * (len(layers) > 1)}"
            value = max(1, round(about["bits"][name]))
            sliders[number] = gr.update(visible=True, label=f"{name}, {count}", value=value)
        dialled = not about["codec"]
        start = round(sum(about["bits"].values()) / max(1, len(about["bits"]))) or 8
        return [
            gr.update(visible=dialled, choices=about["arms"], value=about["arm"]),
            gr.update(visible=dialled),
            gr.update(visible=dialled, value=start),
            gr.update(visible=dialled),
            *sliders,
            list(about["groups"]),
            gr.update(visible=True, value="Measure" if dialled else "Compress"),
            "",
        ]

    def measure(chosen: str, arm: str, images: float, example: float, names: Any, *widths: float) -> str:
        try:
            folder = str(folder_of(manager.root, chosen))
            if not names:
                return views.view("explored", worker.ask("reconstruct", folder, int(example or 0)))
            turned = {str(name): float(width) for name, width in zip(names, widths, strict=False)}
            return views.view("explored", worker.ask("explore", folder, arm, turned, int(images), int(example or 0)))
        except BitdialError as error:
            return views.view("fault", str(error))

    bound: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "worker", "api_visibility": "private"}
    gr.on(None, begin, None, run, show_progress="hidden", api_visibility="private").then(open_run, run, opened, **bound)
    run.input(open_run, run, opened, trigger_mode="always_last", **bound)
    inputs = [run, arm, images, example, names, *groups]
    asked = {**bound, "trigger_mode": "always_last"}
    everything.release(
        lambda width: [width] * GROUPS, everything, groups, show_progress="hidden", api_visibility="private"
    ).then(measure, inputs, found, **asked)
    button.click(measure, inputs, found, **asked)
