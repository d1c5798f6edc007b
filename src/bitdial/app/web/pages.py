"""All pages, how they look, and what of them is in the address: the run, so that a reload or a second tab shows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import resources

import gradio as gr
from gradio.components import Navbar

from bitdial.app.jobs import JobManager
from bitdial.app.web.explore_page import explore_page
from bitdial.app.web.measure_pages import benchmark_page, recommend_page
from bitdial.app.web.rooted import Roots
from bitdial.app.web.run_pages import compare_page, run_page, runs_page
from bitdial.app.web.train_page import train_page
from bitdial.app.web.worker import Worker
from bitdial.recipes import RECIPES

_TITLE = """() => { const run = new URLSearchParams(location.search).getAll("run").join(", ");
document.title = [run, "NAME", "bitdial"].filter((part) => part).join(" · ").slice(0, 200); }"""


_Place = tuple[str, str, Callable[[], None]]
"""Path, title, and what fills a page."""


def build(manager: JobManager, worker: Worker, roots: Roots) -> gr.Blocks:
    """All pages; each knows its run from its own address, and its state from the run's folder."""
    first, *others = RECIPES
    train: list[_Place] = [
        (f"train-{name}", f"Train {name}", partial(train_page, name, manager, roots)) for name in others
    ]
    shown: list[_Place] = [
        ("runs", "Runs", lambda: runs_page(manager)),
        ("explore", "Explore", lambda: explore_page(manager, worker)),
        ("benchmark", "Benchmark", lambda: benchmark_page(worker)),
        ("recommend", "Recommend", lambda: recommend_page(worker)),
    ]
    linked: list[_Place] = [
        ("run", "Run", lambda: run_page(manager)),
        ("compare", "Compare", lambda: compare_page(manager)),
    ]
    pages: gr.Blocks
    with gr.Blocks(title="bitdial", analytics_enabled=False) as pages:
        _page(f"Train {first}", partial(train_page, first, manager, roots))
        for path, title, fill in (*train, *shown, *linked):
            # as `pages.route` does, but without leaving: at each end of a `with`, Gradio makes its whole server anew
            pages.pages.append((path, title, path in {each[0] for each in shown}))
            pages.current_page = path
            _page(title, fill)
    return pages


def _page(title: str, fill: Callable[[], None]) -> None:
    Navbar(main_page_name="Train")
    fill()
    gr.on(None, None, None, None, js=_TITLE.replace("NAME", title), api_visibility="private")


def look() -> tuple[gr.Theme, str, str]:
    """Theme, styles and head of every page: the system's fonts, nothing from anywhere else."""
    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
    mono = ["ui-monospace", "Consolas", "monospace"]
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        font=[gr.themes.Font(name) for name in fonts],
        font_mono=[gr.themes.Font(name) for name in mono],
    )
    css = resources.files(__package__).joinpath("look.css").read_text("utf-8")
    head = '<meta name="color-scheme" content="light dark">'
    return theme, css, head
