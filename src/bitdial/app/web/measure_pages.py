"""The pages Benchmark and Recommend: does mixed precision pay here, as measured and by rules of thumb."""

from __future__ import annotations

import re
from typing import Any

import gradio as gr

from bitdial.app.web import views
from bitdial.app.web.train_page import query_of
from bitdial.app.web.worker import Worker
from bitdial.errors import BitdialError
from bitdial.names import DATASETS, NETWORKS
from bitdial.own_files import is_place

_SETS = [name for name in DATASETS if name not in ("folder", "npz")]


def benchmark_page(worker: Worker) -> None:
    """Training steps in float32 and in the narrow format, side by side."""
    gr.HTML(
        "<h1>Benchmark</h1><p class='summary'>Times training steps in float32 and in a narrow format, interleaved, on "
        "random images, and says whether mixed precision pays on this machine.</p>",
        elem_classes="head",
    )
    with gr.Row(elem_classes="fields"):
        model, dataset, batch = _workload()
        dtype = gr.Dropdown(
            ["auto", "bfloat16", "float16"], value="auto", label="format", info="auto: the one the device is better at."
        )
        rounds = gr.Slider(3, 50, 10, step=1, label="steps", info="Timed steps in each format.")
    button, found = gr.Button("Measure", variant="primary", elem_id="measure"), gr.HTML(elem_classes="found")

    def measure(model: str, dataset: str, batch: str, dtype: str, rounds: float) -> str:
        return _asked(worker, "benchmark", model, dataset, batch, dtype=dtype, iterations=int(rounds))

    button.click(
        measure, [model, dataset, batch, dtype, rounds], found, concurrency_limit=1, concurrency_id="worker",
        trigger_mode="once", api_name="benchmark",
    )  # fmt: skip


def recommend_page(worker: Worker) -> None:
    """Settings for this machine and a network, with reasons, and a link that fills the Train page with them."""
    gr.HTML(
        "<h1>Recommend</h1><p class='summary'>Weighs what this machine is good at against a network and its data: "
        "settings with a reason each, to take over into Train.</p>",
        elem_classes="head",
    )
    with gr.Row(elem_classes="fields"):
        model, dataset, batch = _workload()
    button, found = gr.Button("Recommend", variant="primary", elem_id="advise"), gr.HTML(elem_classes="found")

    def advise(model: str, dataset: str, batch: str) -> str:
        return _asked(worker, "recommend", model, dataset, batch)

    button.click(
        advise, [model, dataset, batch], found, concurrency_limit=1, concurrency_id="worker", trigger_mode="once",
        api_name="recommend",
    )  # fmt: skip


def _workload() -> tuple[Any, Any, Any]:
    return (
        gr.Dropdown(
            list(NETWORKS), value="tiny_cnn", label="model", allow_custom_value=True,
            info="Network, by name; also torchvision/NAME and timm/NAME.",
        ),
        gr.Dropdown(_SETS, value="digits", label="data set", info="Only the shape of its images counts."),
        gr.Textbox("64", label="batch size", info="Examples in one step.", max_lines=1),
    )  # fmt: skip


def _asked(worker: Worker, name: str, model: str, dataset: str, batch: str, **more: Any) -> str:
    try:
        if is_place(str(model)) or str(model).endswith(".py"):
            raise BitdialError(
                f"model: expected a network's name, got the file {str(model)!r:.60}; choose one of the list"
            )
        size = int(batch) if str(batch).strip().isdecimal() else batch
        found = worker.ask(name, {"model": model, "dataset": dataset, "batch_size": size, **more})
    except BitdialError as error:
        said = str(error).replace("argument: ", "", 1)
        return views.view("fault", re.sub(r"; see `bitdial [a-z ]+ --help`$", "", said))
    if name == "benchmark":
        return views.view("benchmark", found)
    return views.view("advice", found, query_of(found["commands"]["train"]))
