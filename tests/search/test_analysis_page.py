"""The page of an analysis: what it says, that names stay text, and that it works in a real browser."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitdial.evaluation.explorer import Explorer, ExplorerColumn
from bitdial.evaluation.page import Page, Text, render_page
from bitdial.search import HyperparameterAnalyzer
from bitdial.search.analysis_page import analysis_page, explorer_of
from bitdial.search.overview import overview_of
from bitdial.search.readers import Unread
from tests.browser import Browser, browser, found_browser
from tests.evaluation.parsing import Parsed
from tests.search.conftest import Make
from tests.search.fabricate import HOSTILE, odd, run, scatter, sweep


def rendered(analyzer: HyperparameterAnalyzer, metric: str | None = None, **options: Any) -> str:
    return render_page(analysis_page(analyzer, metric, **options))


def without_script(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_the_page_says_what_was_found(analyzer_of: Make) -> None:
    unread = [Unread(Path("x.csv"), "expected numbers, got none")]
    text = Parsed(without_script(rendered(analyzer_of(sweep(), unread), "psnr"))).text
    order = [
        "Best configurations",
        "What mattered",
        "All runs",
        "Pictures",
        "Failed and pruned runs",
        "Files that could",
    ]
    places = [text.index(each) for each in [*order, "Notes"]]
    assert places == sorted(places)
    assert "The highest psnr is 37." in text
    assert "155 runs (155 json; 1 failed)" in text
    assert "broken failed json CUDA out of memory" in text
    assert "x.csv expected numbers, got none" in text
    assert "Runs of every lambda_value are compared with each other" in text
    assert "The same in all runs that have them: 2 parameters epochs 10 kind hpcm" in text


def test_how_it_was_chosen_is_said(analyzer_of: Make) -> None:
    text = Parsed(without_script(rendered(analyzer_of([run(str(i), {"x": i}, {"q": i}) for i in range(3)])))).text
    assert "q was taken as what most runs have; another: --metric NAME." in text
    assert "The name q does not tell which way is better: larger was taken; else: --minimize." in text
    assert "importance needs 4 finished runs or more with a finite q, got 3; make more runs" in text


def test_runs_without_any_metric_are_shown_all_the_same(analyzer_of: Make) -> None:
    text = Parsed(without_script(rendered(analyzer_of([run("a", {"x": 1}, {}), run("b", {"x": 2}, {})])))).text
    assert "No run has a metric." in text
    assert "All runs" in text
    assert "Best configurations" not in text


def test_the_data_of_the_table(analyzer_of: Make) -> None:
    analyzer = analyzer_of(odd())
    explorer = explorer_of(analyzer, overview_of(analyzer, "accuracy"))
    data = json.loads(explorer.data)
    names = [column["name"] for column in data["columns"]]
    assert names[:2] == ["run", "accuracy"]
    assert {*analyzer.parameters, *analyzer.metrics} <= {*names}
    assert data["rows"][3][1] == "NaN"
    assert data["rows"][5][1] == "Infinity"
    assert data["rows"][0][names.index("only.sgd.momentum")] is None
    assert [data["rows"][i][names.index("mixed")] for i in range(5)] == ["1", "auto", "None", "True", "2.5"]
    assert "<" not in explorer.data


def test_other_pages_have_no_script_and_no_style_of_it() -> None:
    plain = render_page(Page("t", [], [Text("x")]))
    assert "<script" not in plain
    assert "explorer" not in plain
    full = render_page(Page("t", [], [Explorer([ExplorerColumn("a")], [["b"]])]))
    assert full.count("<script") == 2
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://(?!www\.w3\.org/2000/svg)", full
    )


@pytest.mark.slow
def test_a_thousand_runs_make_a_page_in_time(analyzer_of: Make, tmp_path: Path) -> None:
    analyzer = analyzer_of(scatter(1000, columns=28))
    start = time.process_time()
    page = analyzer.report(tmp_path / "page.html")
    assert time.process_time() - start < 30  # four seconds; minutes if it were quadratic
    assert page.stat().st_size < 3_000_000


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    pytest.importorskip("websockets")
    if found_browser() is None:
        pytest.skip("no chromium or chrome on this machine")
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page_of(opened: Browser, analyzer_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that opens the page of runs; whatever it does, it complains of nothing and asks for nothing."""
    monkeypatch.setattr("bitdial.search.analysis_page._figures", lambda *_: [])  # seconds a page, and no script
    opened.requests.clear()
    opened.complaints.clear()

    def make(runs: list[Any], metric: str | None = None, width: int = 1280) -> Browser:
        opened.open(analyzer_of(runs).report(tmp_path / "page.html", metric), width)
        return opened

    yield make
    opened.run("1")  # what was still under way is told by now
    assert opened.complaints == []
    assert opened.requests
    assert all(address.startswith(("file:", "data:")) for address in opened.requests), opened.requests


SHOWN = "[...document.querySelectorAll('.explorer tbody tr')].filter(r => !r.hidden)"
FIRST = f"{SHOWN}.map(r => r.cells[0].textContent)"
COUNT = "document.querySelector('.explorer output').textContent"


def column(page: Browser, name: str) -> list[str]:
    heads = page.run("[...document.querySelectorAll('.explorer thead th')].map(h => h.textContent)")
    return list(page.run(f"{SHOWN}.map(r => r.cells[{heads.index(name)}].textContent)"))


def click(page: Browser, name: str) -> None:
    heads = "[...document.querySelectorAll('.explorer thead button')]"
    page.run(f"{heads}.find(b => b.textContent === {json.dumps(name)}).click()")


def test_a_click_on_a_heading_sorts(page_of: Any) -> None:
    values = [10.0, 9.0, float("nan"), 100.0, -1.5]
    runs = [
        run(f"run-{i}", {"x": i % 2, "name": n}, {"loss": v})
        for i, (v, n) in enumerate(zip(values, "ba10", strict=False))
    ]
    runs.append(run("run-10", {"x": 5, "name": "a"}, {"loss": values[-1]}))
    page = page_of(runs)
    assert page.run(FIRST) == [each.name for each in runs]
    click(page, "loss")
    assert column(page, "loss") == ["-1.5", "9", "10", "100", "NaN"]  # as numbers; what is none comes last
    click(page, "loss")
    assert column(page, "loss") == ["100", "10", "9", "-1.5", "NaN"]
    assert page.run("document.querySelectorAll('[aria-sort]').length") == 1
    assert page.run("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"
    click(page, "run")
    assert column(page, "run") == ["run-0", "run-1", "run-2", "run-3", "run-10"]
    page.run("document.querySelectorAll('.explorer thead button')[1].focus()")
    page.key("Enter", 13, "\r")
    assert column(page, "loss")[0] == "-1.5"


def test_words_filter(page_of: Any) -> None:
    page = page_of(scatter(60), "accuracy")
    assert page.run(COUNT) == "60 runs"
    page.run("document.querySelector('.explorer input').focus()")
    for letter in "ADAM trial-1":
        page.send("Input.insertText", text=letter)
    kept = page.run(FIRST)
    optimizers = column(page, "optimizer")
    assert 0 < len(kept) < 60
    assert {*optimizers} == {"adam"}
    assert all("trial-1" in name for name in kept)
    assert page.run(COUNT) == f"{len(kept)} of 60 runs"
    page.key("Escape", 27)
    assert page.run(COUNT) == "60 runs"


def axis(page: Browser, name: str) -> dict[str, float]:
    """Return where an axis is on the screen, and its ends."""
    page.run("document.querySelector('.lines').scrollIntoView()")
    return dict(
        page.run(
            f"""(() => {{
        const named = {json.dumps(name + ":")};
        const hit = [...document.querySelectorAll('.hit')].find(h => h.textContent.startsWith(named));
        document.querySelector('.lines').scrollLeft = hit.x.baseVal.value - 60;
        const box = hit.getBoundingClientRect();
        return {{x: box.left + box.width / 2, top: box.top + 12, bottom: box.top + 12 + 260}};
    }})()"""
        )
    )


def test_an_axis_is_brushed_and_the_table_follows(page_of: Any) -> None:
    page = page_of(sweep(), "psnr")
    place = axis(page, "width")
    page.drag(place["x"], place["bottom"] + 5, place["bottom"] - 20)  # the lowest value of 32, 64, 128
    assert {*column(page, "width")} == {"32"}
    kept = len(page.run(FIRST))
    assert page.run("document.querySelectorAll('.line.out').length") == 155 - kept
    rate = axis(page, "optimizer.lr")
    page.drag(rate["x"], rate["top"] - 5, rate["top"] + 20)
    assert {*column(page, "optimizer.lr")} == {"0.003"}
    assert {*column(page, "width")} == {"32"}
    page.drag(rate["x"], rate["top"] + 50, rate["top"] + 50)  # a click clears one
    assert len(page.run(FIRST)) == kept
    page.run("document.querySelector('.clear').click()")
    assert page.run(COUNT) == "155 runs"
    page.drag(place["x"], place["bottom"] + 5, place["bottom"] - 20)
    assert page.run(COUNT) != "155 runs"
    page.key("Escape", 27)
    assert page.run(COUNT) == "155 runs"
    assert page.run("document.querySelectorAll('.line.out').length") == 0


def test_a_finger_brushes_on_a_narrow_screen(page_of: Any) -> None:
    page = page_of(sweep((), 2), "psnr", width=400)
    assert page.run(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )  # tables scroll, the page does not
    place = axis(page, "width")
    page.touch(place["x"], place["bottom"] + 5, place["bottom"] - 20)
    assert {*column(page, "width")} == {"32"}


def test_runs_without_a_value_are_drawn_below_and_can_be_selected(page_of: Any) -> None:
    page = page_of(odd(), "accuracy")
    place = axis(page, "only.sgd.momentum")
    page.drag(place["x"], place["bottom"] + 12, place["bottom"] + 34)
    assert {*column(page, "only.sgd.momentum")} == {"\u2013"}
    assert len(page.run(FIRST)) == 6


def test_names_stay_text(page_of: Any) -> None:
    page = page_of(
        [*odd(), run(HOSTILE[2], {HOSTILE[1]: HOSTILE[0]}, {HOSTILE[1]: 1.0, HOSTILE[2]: 2.0, "accuracy": 0.5})]
    )
    assert page.run("document.querySelectorAll('script').length") == 2
    assert page.run("document.querySelectorAll('img:not([src^=data])').length") == 0
    heads = page.run("[...document.querySelectorAll('.explorer thead th')].map(h => h.textContent)")
    assert {*HOSTILE, HOSTILE[1] + " (metric)", "größe_ヴィット"} < {*heads}
    assert HOSTILE[2] in page.run(FIRST)


@pytest.mark.slow
def test_a_thousand_runs_in_the_browser(page_of: Any) -> None:
    page = page_of(scatter(1000, columns=28))
    assert page.run(COUNT) == "1000 runs"
    assert page.run("document.querySelectorAll('.line').length") == 1000
    click(page, "lr")
    rates = [float(each) for each in column(page, "lr")]
    assert rates == sorted(rates)


def test_one_run_and_none_with_a_metric(page_of: Any) -> None:
    page = page_of([run("only", {"x": 1}, {})])
    assert page.run(FIRST) == ["only"]
    assert page.run("document.querySelector('.lines').hidden") is True
