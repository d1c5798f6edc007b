"""The pages in a real browser: what a person does, from the first click to the report."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.app.served import Pages, Served, serving

pytest.importorskip("gradio", reason="the extra app is not installed")

TINY = {"model": "tiny_cnn", "steps": "4", "limit_train": "64", "limit_test": "32"}
LONG = {**TINY, "steps": "100000"}
EVIL = '<img src=x onerror="window.evil=1">'


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("app")
    with serving(place) as found:
        yield found
        from bitdial.app.jobs import JobManager

        manager = JobManager(place / "runs")
        for run in manager.list():
            if run.alive:
                manager.stop(run.id, grace=1)


@pytest.fixture
def pages(chromium: Any, served: Served) -> Iterator[Pages]:
    found = Pages(chromium, served)
    yield found
    found.close()
    own = (served.url, "data:", "blob:")
    assert [url for url in found.requests if not url.startswith(own)] == []
    assert found.complaints == []


def fill(page: Any, values: dict[str, str]) -> None:
    for name, value in values.items():
        field = page.locator(f'[id="field-{name}"] input, [id="field-{name}"] textarea').first
        field.fill(value)
        field.press("Enter" if name == "model" else "Tab")
    # the command line follows what is filled in
    page.wait_for_function(
        "text => document.querySelector('.command').innerText.includes(text)", arg=values["limit_test"]
    )


def start(pages: Pages, values: dict[str, str], recipe: str = "joint") -> tuple[Any, str]:
    page = pages.open(f"/train-{recipe}")
    fill(page, values)
    page.click("#start")
    page.wait_for_url("**/run?run=*")
    return page, page.url.partition("run?run=")[2]


def wait(page: Any, state: str) -> None:
    page.wait_for_selector(f".run-head .state.{state}", timeout=120_000)


@pytest.fixture(scope="module")
def two_runs(chromium: Any, served: Served) -> list[str]:
    """Trained from the page to the end, one after the other: both are asked for at once on one device."""
    found = Pages(chromium, served)
    first, second = start(found, TINY), start(found, {**TINY, "steps": "3"})
    wait(first[0], "finished")
    wait(second[0], "finished")
    found.close()
    return [first[1], second[1]]


@pytest.mark.slow
def test_train_to_the_end_and_open_the_report(pages: Pages, two_runs: list[str]) -> None:
    page = pages.open(f"/run?run={two_runs[0]}")
    wait(page, "finished")
    page.wait_for_selector("figure.chart svg path")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the report").click()
    opened.value.wait_for_selector("h1")
    assert "any-precision" in opened.value.inner_text("body").lower() or "width" in opened.value.inner_text("body")
    assert opened.value.evaluate("window.origin") == "null"  # none of the page's rights


@pytest.mark.slow
def test_what_is_wrong_is_said_beside_the_field_and_nothing_starts(pages: Pages, two_runs: list[str]) -> None:
    page = pages.open("/train-joint")
    before = {each.name for each in (pages.served.folder / "runs").iterdir()}
    fill(page, {"lr": "fast", "data_path": "/etc", "limit_test": "32"})
    page.click("#start")
    page.wait_for_function("document.querySelector('#field-lr').innerText.includes(\"expected a number, got 'fast'\")")
    assert "no path" in page.inner_text("#field-data_path") or "a path below" in page.inner_text("#field-data_path")
    assert "/run?" not in page.url
    assert {each.name for each in (pages.served.folder / "runs").iterdir()} == before


@pytest.mark.slow
def test_compare_two_runs(pages: Pages, two_runs: list[str]) -> None:
    page = pages.open("/runs")
    for run in two_runs:
        page.get_by_role("checkbox", name=f"compare {run}").check()
    page.get_by_role("button", name="Compare those that are ticked").click()
    page.wait_for_selector("figure.chart svg path")
    text = page.inner_text("body")
    assert all(run in text for run in two_runs)
    assert re.search(r"steps\s+4\s+3|steps\s+3\s+4", text)
    page.reload()
    page.wait_for_selector("figure.chart svg path")


@pytest.mark.slow
def test_explore_widths(pages: Pages, two_runs: list[str]) -> None:
    page = pages.open(f"/explore?run={two_runs[0]}")
    page.wait_for_selector("#width")
    page.click("#explore")
    page.wait_for_selector(".found img")
    text = page.inner_text(".found")
    assert re.search(r"accuracy\s+[\d.]+%", text)
    assert "packed" in text
    for width in ("2 bits", "32 bits"):
        assert width in text


def test_benchmark(pages: Pages) -> None:
    page = pages.open("/benchmark")
    page.get_by_label("batch size").fill("2")
    page.click("#measure")
    page.wait_for_selector(".verdict", timeout=120_000)
    assert "float32" in page.inner_text(".found table")


def test_recommend_and_take_over(pages: Pages) -> None:
    page = pages.open("/recommend")
    page.get_by_label("batch size").fill("48")
    page.click("#advise")
    page.wait_for_selector(".verdict", timeout=120_000)
    page.get_by_role("link", name="Take over into Train").click()
    page.wait_for_function("document.querySelector('.command')?.innerText.includes('--batch_size 48')")
    assert "--model tiny_cnn" in page.inner_text(".command").replace("\n", " ")


@pytest.mark.slow
def test_reload_second_tab_stop_resume_and_a_killed_server(pages: Pages, two_runs: list[str]) -> None:
    page, run = start(pages, LONG)
    wait(page, "running")
    page.reload()
    wait(page, "running")
    pages.served.kill()  # the run goes on, a new server on the same port finds it
    port = pages.served.url.rpartition(":")[2]
    pages.served.words = ("--port", port)
    pages.served.start()
    other = pages.open(f"/run?run={run}")
    wait(other, "running")
    other.click("#stop")
    wait(other, "stopped")
    page.reload()
    wait(page, "stopped")
    other.click("#resume")
    wait(other, "running")
    other.click("#stop")
    wait(other, "stopped")
    pages.complaints.clear()  # of the tab whose server was gone


@pytest.mark.slow
def test_a_job_killed_from_outside_is_told_of(pages: Pages, two_runs: list[str]) -> None:
    from bitdial.app.jobs import JobManager

    page, run = start(pages, LONG)
    wait(page, "running")
    manager = JobManager(pages.served.folder / "runs")
    for _ in range(600):
        if pid := manager.status(run).pid:
            break
        time.sleep(0.05)
    os.kill(int(pid or 0), signal.SIGKILL)
    wait(page, "failed")
    assert page.inner_text(".why.failed")


def test_an_html_string_is_text_everywhere(pages: Pages) -> None:
    folder = pages.served.folder / "runs" / "evil-1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"recipe: joint\nmodel: '{EVIL}'\ndataset: '{EVIL}'\n")
    (folder / "metrics.csv").write_text(f"phase,step,train_loss\n'{EVIL}',1,2\n'{EVIL}',2,1\n")
    for path in ("/runs", "/run?run=evil-1", "/compare?run=evil-1", "/compare?run=" + EVIL, "/run?run=" + EVIL):
        page = pages.open(path)
        page.wait_for_timeout(500)
        assert page.evaluate("window.evil") is None, path
        assert page.locator("img[src=x]").count() == 0, path


@pytest.mark.slow
def test_back_and_forth_shows_what_the_address_says(pages: Pages, two_runs: list[str]) -> None:
    page = pages.open("/runs")
    page.get_by_role("link", name=two_runs[0], exact=True).click()
    page.wait_for_url(f"**/run?run={two_runs[0]}")
    wait(page, "finished")
    page.go_back()
    page.wait_for_selector("table.runs")
    page.get_by_role("button", name="Compare those that are ticked").click()  # with none
    page.wait_for_url("**/compare*")
    page.wait_for_selector(".why.failed")
    page.go_back()
    page.wait_for_selector("table.runs")
    page.go_forward()
    page.wait_for_selector(".why.failed")
    page.goto(pages.served.url + "/train-cyclic?lr=0.5")
    page.wait_for_function("document.querySelector('.command')?.innerText.includes('--lr 0.5')")
    page.goto(pages.served.url + "/nothing-of-the-kind")
    assert page.inner_text("p") == "There is nothing at this address."
    page.get_by_role("link", name="Runs").click()
    page.wait_for_selector("table.runs")


PAGES = ("/", "/train-compress", "/runs", "/explore", "/benchmark", "/recommend")


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES)
def test_a_phone_and_the_dark(pages: Pages, two_runs: list[str], path: str) -> None:
    page = pages.open(path, width=400, scheme="dark")
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", background)[:3])) < 150, background
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, select, textarea, button, a')].filter(each => each.offsetParent
        && !each.closest('.cm-editor') && !(each.labels?.length && [...each.labels].some(l => l.innerText.trim()))
        && !each.innerText?.trim() && !each.ariaLabel && !each.title && !each.getAttribute('aria-labelledby'))
        .map(each => each.outerHTML.slice(0, 200))"""
    )
    assert unnamed == []


@pytest.mark.slow
def test_keyboard_alone(pages: Pages, two_runs: list[str]) -> None:
    page = pages.open("/runs")
    page.wait_for_selector("table.runs")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('value')") == two_runs[1]:
            break
    page.keyboard.press("Space")
    for _ in range(60):
        page.keyboard.press("Tab")
        if "ticked" in page.evaluate("document.activeElement.innerText || ''"):
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare?run=*")
    assert two_runs[1] in page.url
