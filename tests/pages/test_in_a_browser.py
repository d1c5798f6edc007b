"""Every page in a real browser, narrow and wide, light and dark: no text covers another or is cut, nothing complains,
nothing is asked of the network, and figures say their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bitdial.evaluation.page import Page, Picture, write_page
from bitdial.evaluation.plot_style import new_figure, render
from tests.browser import Browser, browser, found_browser
from tests.pages import made_up

pytest.importorskip("websockets")

CHECKS = (Path(__file__).parent / "overlaps.js").read_text(encoding="utf-8")
PAGES: dict[str, Callable[[Path], Page]] = {
    "cyclic": made_up.cyclic_page,
    "ternary": made_up.ternary_page,
    "joint": made_up.joint_page,
    "compress": made_up.compress_page,
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if found_browser() is None:
        pytest.skip("no chromium or chrome on this machine")
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def analysis_page(folder: Path) -> Page:
    pytest.importorskip("optuna")
    pytest.importorskip("pandas")
    from bitdial.search import HyperparameterAnalyzer
    from bitdial.search.analysis_page import analysis_page as page_of
    from tests.search.fabricate import sweep

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitdial.search.analysis.read_runs", lambda folder: (sweep(), []))
        return page_of(HyperparameterAnalyzer(folder), "psnr")


def look(page: Browser, file: Path, width: int, scheme: str) -> dict[str, Any]:
    """Open a page, and return what is wrong with it."""
    page.requests.clear()
    page.complaints.clear()
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.open(file, width)
    found: dict[str, Any] = page.run(CHECKS)
    asked = [address for address in page.requests if not address.startswith(("file:", "data:"))]
    return {**found, "complaints": page.complaints, "asked of the network": asked}


@pytest.mark.parametrize("name", [*PAGES, "analysis"])
def test_nothing_covers_anything(opened: Browser, name: str, tmp_path: Path) -> None:
    file = write_page((PAGES | {"analysis": analysis_page})[name](tmp_path), tmp_path / "page.html")
    for width in (1280, 400):
        for scheme in ("light", "dark"):
            found = look(opened, file, width, scheme)
            assert found.pop("texts") > 100
            assert found.pop("figures") >= 3
            assert {what: wrong for what, wrong in found.items() if wrong} == {}, (width, scheme)
    assert "--c0" in file.read_text(encoding="utf-8")


def test_what_is_wrong_is_found(opened: Browser, tmp_path: Path) -> None:
    figure = new_figure(4, 3)
    axes = figure.subplots()
    for place in (0.5, 0.52):
        axes.text(place, 0.5, "a label", color="#fefefe")
    page = Page("t", [], [Picture(render({"a": figure})["a"], "caption")])
    file = write_page(page, tmp_path / "page.html")
    file.write_text(
        file.read_text().replace("</main>", "<img src=http://localhost:9/x.png><script>lost()</script></main>")
    )
    found = look(opened, file, 400, "light")
    assert found["covered"] == ["'a label' and 'a label'"]
    assert found["hardly seen"] == ["a label", "a label"]
    assert "lost is not defined" in str(found["complaints"])
    assert found["asked of the network"] == ["http://localhost:9/x.png"]


def test_a_figure_says_its_numbers(opened: Browser, tmp_path: Path) -> None:
    figure = new_figure(4, 3)
    axes = figure.subplots()
    axes.plot([1, 2, 3], [10, 20, 15], "o-", label="<b>ours</b>")
    axes.set(xlabel="epoch", ylabel="accuracy (%)")
    page = Page("t", [], [Picture(render({"a": figure})["a"], "caption")])
    opened.open(write_page(page, tmp_path / "page.html"))
    box = opened.run(
        "(() => { const svg = document.querySelector('figure svg'), r = svg.getBoundingClientRect();"
        " const [x, y] = JSON.parse(document.querySelector('figure script').textContent)[0].at[1];"
        " const scale = r.width / svg.viewBox.baseVal.width; return [r.x + scale * x, r.y + scale * y] })()"
    )
    told = "document.querySelector('.told:not([hidden])')?.textContent ?? null"
    assert opened.run(told) is None
    opened.mouse("mouseMoved", box[0] + 3, box[1] + 3)
    assert opened.run(told) == "<b>ours</b>\nepoch: 2\naccuracy (%): 20"
    opened.mouse("mouseMoved", 2, 2)
    assert opened.run(told) is None
    opened.run("document.querySelector('figure .scroll').focus()")
    for _ in range(2):
        opened.key("ArrowRight", 39)
    assert opened.run(told) == "<b>ours</b>\nepoch: 2\naccuracy (%): 20"
    opened.key("Escape", 27)
    assert opened.run(told) is None
