"""All pages, how they look, and what of them is in the address: the run, so that a reload or a second tab shows it."""

from __future__ import annotations

from collections.abc import Callable
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


def build(manager: JobManager, worker: Worker, roots: Roots) -> gr.Blocks:
    """All pages; each knows its run from its own address, and its state from the run's folder."""
    first, *others = RECIPES
    pages: gr.Blocks
    with gr.Blocks(title="bitdial", analytics_enabled=False) as pages:
        _bar()
        train_page(first, manager, roots)
    for name in others:
        with pages.route(f"Train {name}", f"/train-{name}", show_in_navbar=False):
            _bar()
            train_page(name, manager, roots)
    rest: tuple[tuple[str, str, Callable[[], None]], ...] = (
        ("Runs", "runs", lambda: runs_page(manager)),
        ("Explore", "explore", lambda: explore_page(manager, worker)),
        ("Benchmark", "benchmark", lambda: benchmark_page(worker)),
        ("Recommend", "recommend", lambda: recommend_page(worker)),
    )
    for title, path, fill in rest:
        with pages.route(title, f"/{path}"):
            _bar()
            fill()
    with pages.route("Run", "/run", show_in_navbar=False):
        _bar()
        run_page(manager)
    with pages.route("Compare", "/compare", show_in_navbar=False):
        _bar()
        compare_page(manager)
    return pages


def _bar() -> None:
    Navbar(main_page_name="Train")


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
