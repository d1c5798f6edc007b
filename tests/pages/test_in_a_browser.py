"""Every page in a real browser, narrow and wide, light, dark and printed: no text covers another or is cut, nothing
complains, nothing is asked of the network, and figures say their numbers."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bitdial.evaluation.page import Details, Page, Picture, Pre, Row, Table, Text, write_page
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
    "compare": made_up.compare_page,
}
FIGURES = {"compare": 0}
"""How many figures a page has at least, where it is not three."""
PAPER = 703
"""The width of a sheet of A4 without its margins, in pixels of CSS."""
_PIXEL = 3.125
"""What Chromium draws a pixel of CSS as in a PDF, of which 300 are an inch."""


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


def look(page: Browser, file: Path, width: int, scheme: str, media: str = "") -> dict[str, Any]:
    """Open a page, and return what is wrong with it."""
    page.requests.clear()
    page.complaints.clear()
    page.send("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.open(file, width)
    found: dict[str, Any] = page.run(CHECKS)
    asked = [address for address in page.requests if not address.startswith(("file:", "data:"))]
    return {**found, "complaints": page.complaints, "asked of the network": asked}


@pytest.mark.parametrize("name", [*PAGES, "analysis"])
def test_nothing_covers_anything(opened: Browser, name: str, tmp_path: Path) -> None:
    file = write_page((PAGES | {"analysis": analysis_page})[name](tmp_path), tmp_path / "page.html")
    wanted = FIGURES.get(name, 3)
    for width, scheme, media in [
        *((width, scheme, "") for width in (1280, 400) for scheme in ("light", "dark")),
        (PAPER, "dark", "print"),
    ]:
        found = look(opened, file, width, scheme, media)
        assert found.pop("texts") > 50
        assert found.pop("figures") >= wanted
        assert {what: wrong for what, wrong in found.items() if wrong} == {}, (width, scheme, media)
    assert ("--c0" in file.read_text(encoding="utf-8")) == bool(wanted)


def printed(page: Browser, file: Path) -> tuple[int, float]:
    """Print a page; return how many sheets it takes, and how much it is shrunk to fit (1: not).

    Chromium shrinks what is wider than a sheet: all text gets smaller, for one wide element.
    """
    page.send("Emulation.setEmulatedMedia", media="", features=[])
    page.open(file)
    asked = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True}
    pdf = base64.b64decode(page.send("Page.printToPDF", **asked)["data"])
    streams = [zlib.decompressobj().decompress(each) for each in _deflated(pdf)]
    scales = [float(found[1]) for each in streams if (found := re.search(rb"W\* n\nq\n([\d.]+) 0 0 ", each[:120]))]
    assert scales
    return len(re.findall(rb"/Type /Page\b", pdf)), _PIXEL / min(scales)


def _deflated(pdf: bytes) -> Iterator[bytes]:
    for found in re.finditer(rb"/FlateDecode.*?stream\r?\n", pdf, re.DOTALL):
        yield pdf[found.end() : pdf.index(b"endstream", found.end())]


@pytest.mark.parametrize("name", [*PAGES, "analysis"])
def test_a_printed_page_is_whole(opened: Browser, name: str, tmp_path: Path) -> None:
    sheets, shrunk = printed(
        opened, write_page((PAGES | {"analysis": analysis_page})[name](tmp_path), tmp_path / "p.html")
    )
    assert 1 <= sheets < 15
    assert shrunk < 1.01


def bad_page(css: str, tmp_path: Path) -> Path:
    """A page that is sound but for some lines of style."""
    table = Table(["arm", "accuracy"], [Row("an arm with a name", ["97.8"])])
    page = Page("t", [], [Text("some words " * 12), table, Details("more", [Pre("folded away")])])
    file = write_page(page, tmp_path / "page.html")
    file.write_text(file.read_text().replace("</style>", f"{css}</style>"))
    return file


@pytest.mark.parametrize(
    ("css", "media", "found", "wrong"),
    [
        ("", "", "", None),
        ("", "print", "", None),
        ("main p { white-space: nowrap; overflow: hidden; width: 90px; }", "", "hidden", ["some words"]),
        ("table { table-layout: fixed; width: 40px !important; } td { overflow: clip; }", "", "hidden", ["97.8"]),
        ("main h1 { height: 3px; overflow: hidden; }", "", "hidden", ["t"]),
        ("main p { width: 1500px; max-width: none; }", "", "wider than the screen", 1500),
        ("main p { width: 1500px; max-width: none; }", "print", "hidden", ["some words"]),
        ("table { width: 900px !important; }", "print", "hidden", ["accuracy"]),
        ("details::details-content { content-visibility: hidden !important; }", "print", "folded on paper", ["folded"]),
        ("details { height: 20px; overflow: hidden; }", "print", "hidden", ["folded away"]),
    ],
)
def test_what_is_cut_is_found(opened: Browser, css: str, media: str, found: str, wrong: Any, tmp_path: Path) -> None:
    seen = look(opened, bad_page(css, tmp_path), PAPER, "light", media)
    if wrong is None:
        assert not seen["hidden"] + seen["folded on paper"]
        assert not seen["wider than the screen"]
    elif isinstance(wrong, int):
        assert seen[found] >= wrong
    else:
        assert str(seen[found][0]).startswith(wrong[0])


def test_a_page_that_is_shrunk_to_fit_a_sheet_is_found(opened: Browser, tmp_path: Path) -> None:
    assert printed(opened, bad_page("", tmp_path))[1] < 1.01
    assert printed(opened, bad_page("main p { width: 1000px; max-width: none; }", tmp_path))[1] > 1.2


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
