"""How a page lies on narrow screens and on paper, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitdial.evaluation.page import Details, Page, Pre, Row, Table, write_page
from tests.browser import browser, found_browser

HINT = "getComputedStyle(document.querySelector('.hint')).display"
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
CUT = "[...document.querySelectorAll('td, th')].filter(c => c.getBoundingClientRect().right > innerWidth).length"


@pytest.mark.skipif(found_browser() is None, reason="needs a browser such as Chromium")
def test_a_wide_table_says_that_it_scrolls_and_is_whole_on_paper(tmp_path: Path) -> None:
    pytest.importorskip("websockets")
    columns = ["arm", *(f"column {number}" for number in range(6))]
    table = Table(columns, [Row("ablation_random_cycling", ["97.8 ± 10.3"] * 6)])
    path = write_page(Page("t", [], [table, Details("more", [Pre("folded away")])]), tmp_path / "report.html")
    with browser(tmp_path / "profile") as page:
        page.open(path)
        assert page.run(HINT) == "none"
        page.open(path, width=400)
        assert page.run(HINT) == "block"
        assert page.run(FITS)
        assert page.run(CUT) > 0
        page.send("Emulation.setEmulatedMedia", media="print")
        page.open(path, width=700)
        assert page.run(HINT) == "none"
        assert page.run(CUT) == 0
        assert page.run("document.querySelector('pre').checkVisibility({contentVisibilityAuto: true})")
        assert page.run("document.querySelector('details').getBoundingClientRect().height") > 60
