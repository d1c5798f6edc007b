"""The page: what each block becomes, and that nothing which comes from a user is ever markup."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from bitdial.evaluation import describe_machine
from bitdial.evaluation.drawing import Drawing
from bitdial.evaluation.page import (
    Block,
    Cell,
    Details,
    Facts,
    Items,
    Page,
    Picture,
    Pre,
    Row,
    Section,
    Table,
    Text,
    Tile,
    machine_section,
    made,
    notes_section,
    pictures,
    render_page,
    reproduction_section,
    write_page,
)
from tests.evaluation.parsing import Parsed

HOSTILE = [
    "<script>alert(1)</script>",
    """'"><img src=x onerror=alert(1)>""",
    "</style></pre></td>{{ page }} {% raw %}",
    "two\nlines &amp; a tab\t",
    "long" * 500,
    "naïve_ヴィット_🎛",
]


def everywhere(text: str) -> Page:
    """A page with `text` in every place that takes a string."""
    table = Table(
        columns=[text, "number", f"words {text}"],
        rows=[Row(text, [Cell(text, "framed"), Cell(text, "bad")], best=True), Row("plain", [text, text])],
        caption=text,
        words=[f"words {text}"],
    )
    blocks: list[Block] = [
        Section(text),
        Text(text),
        Text(text, soft=True),
        Items([text]),
        Facts({text: text}),
        Pre(text),
        Picture(Drawing(b"png"), text),
        table,
    ]
    blocks += [Details(text, list(blocks)), *reproduction_section(text, {text: text}, file=text, schema_version=1)]
    return Page(text, [text], blocks, headline=text, tiles=[Tile(text, text)])


def body(*blocks: Block) -> str:
    return render_page(Page("title", [], blocks)).split("<main>")[1].split("</main>")[0]


PLAIN_TAGS = Parsed(render_page(everywhere("plain"))).tags


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_string_is_text_in_every_block(text: str) -> None:
    page = render_page(everywhere(text))
    parsed = Parsed(page)
    assert [tag for tag in parsed.tags if tag not in ("wbr", "br")] == [t for t in PLAIN_TAGS if t not in ("wbr", "br")]
    assert parsed.text.count(" ".join(text.split())) >= 20
    assert "<script" not in page
    assert all(address and address.startswith("data:image/png;base64,") for address in parsed.addresses)


@given(st.text(max_size=40))
def test_no_string_adds_a_tag(text: str) -> None:
    def tags(word: str) -> list[str]:
        page = body(Section(word), Items([word]), Pre(word), Table([word, "b"], [Row(word, [word])], caption="c"))
        return [tag for tag in Parsed(page).tags if tag not in ("wbr", "br")]

    assert tags(text) == tags("plain")


def test_nothing_comes_from_outside_and_nothing_runs() -> None:
    page = render_page(everywhere("text"))
    assert not re.search(r"<script|<link|<iframe|<object|@import|url\(|http|\son\w+=", page)
    assert page.startswith("<!doctype html>\n<html")
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_blocks_stand_in_their_order() -> None:
    parts = [Section("one"), Text("two"), Items(["three"]), Pre("four"), Facts({"five": "six"}), Section("seven")]
    assert Parsed(body(*parts)).text.endswith("one two three four five six seven")


def test_details_are_folded_and_hold_any_block() -> None:
    page = body(Details("more", [Text("inside"), Details("still more", [Pre("deep")])]))
    assert page.count("<details>") == 2
    assert Parsed(page).text.endswith("more inside still more deep")


def test_the_answer_comes_first_and_may_be_missing() -> None:
    full = render_page(Page("t", ["a", "b"], [Section("s")], headline="It is 4.", tiles=[Tile("4", "bits")]))
    assert Parsed(full).text.endswith("t a · b It is 4. 4 bits s")
    bare = body(Section("s"))
    assert 'class="headline"' not in bare
    assert 'class="tiles"' not in bare


def test_a_table_marks_rows_cells_and_columns_of_words() -> None:
    table = Table(
        columns=["arm", "a\nb", "is"],
        rows=[Row("x_1", [Cell("1", "framed"), Cell("fine", "good")], best=True), Row("y", ["2", "so so"])],
        words=["is"],
    )
    page = body(table)
    assert "<caption" not in page
    assert "<th><span>a<br>b</span></th>" in page
    assert '<th class="words"><span>is</span></th>' in page
    assert '<tr class="best"><th scope="row"><span>x_<wbr>1</span></th>' in page
    assert '<td class="framed">1</td><td class="words good">fine</td></tr>' in page
    assert '<td>2</td><td class="words">so so</td></tr>' in page


def test_names_break_where_their_words_end_and_numbers_nowhere() -> None:
    page = body(Table(["a", "optim.weight_decay"], [Row("stage1.0.conv2/&_x", ["1"]), Row("97.1", ["2"])]))
    assert "<span>optim.<wbr>weight_<wbr>decay</span>" in page
    assert "<span>stage1.0.<wbr>conv2/<wbr>&amp;_<wbr>x</span>" in page
    assert "<span>97.1</span>" in page


def test_a_table_without_rows_says_so() -> None:
    assert Parsed(body(Table(["a", "b"], []))).text.endswith("a b none")
    assert Parsed(body(Table(["a"], []))).text.endswith("a none")


def test_what_a_recipe_gets_wrong_is_not_drawn() -> None:
    with pytest.raises(AssertionError, match="blinking"):
        Cell("1", "blinking")  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="a cell for every column"):
        Table(["a", "b"], [Row("x", [])])
    with pytest.raises(AssertionError, match="no column is called"):
        Table(["a"], [], words=["b"])
    with pytest.raises(UndefinedError):
        body("a string is no block")  # type: ignore[arg-type]


def test_pictures_keep_their_order_and_a_missing_one_leaves_no_trace() -> None:
    captions = {"a": "shows a", "b": "shows b", "c": "shows c"}
    one, three = Drawing(b"1"), Drawing(b"3")
    assert pictures({"c": three, "a": one}, captions) == [Picture(three, "shows c"), Picture(one, "shows a")]
    assert pictures({}, captions) == []
    page = body(Picture(one, 'it "is" <b>'))
    assert '<img alt="it &#34;is&#34; &lt;b&gt;" src="data:image/png;base64,MQ==">' in page


def test_notes_or_none() -> None:
    assert notes_section(["a", "b"]) == [Section("Notes"), Items(["a", "b"])]
    assert Parsed(body(*notes_section([]))).text.endswith("Notes None.")


def test_how_to_reproduce_without_command_or_configuration() -> None:
    full = body(*reproduction_section("bitdial x", {"lr": 0.1}, file="results.json", schema_version=3))
    assert "<pre>bitdial x</pre>" in full
    assert "lr: 0.1" in full
    assert "results.json (schema version 3)" in full
    bare = body(*reproduction_section("", {}, file="results.json", schema_version=3))
    assert "<pre>" not in bare
    assert "<details>" not in bare


def test_the_machine() -> None:
    machine = describe_machine().model_copy(update={"memory_gib": None, "accelerators": ["GPU one", "GPU two"]})
    text = Parsed(body(*machine_section(machine))).text
    assert f"Processor {' '.join(machine.processor.split())}, {machine.cores} cores" in text
    assert "Accelerators GPU one, GPU two System" in text
    assert all(f"{name} {version}" in text for name, version in machine.versions.items())


def test_made() -> None:
    assert made("2026-01-02T03:04:05+00:00") == "made 2026-01-02 03:04:05 UTC"


def test_write_makes_the_folder_and_says_where(tmp_path: Path) -> None:
    page = Page("größe", [], [])
    path = write_page(page, tmp_path / "run" / "report.html")
    assert path.read_text(encoding="utf-8") == render_page(page)
