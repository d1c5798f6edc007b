"""Figures inside a page: text stays text, colours are the page's, and what is told of a point is what was drawn."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from bitdial.evaluation.curves import training_curves
from bitdial.evaluation.drawing import COLOURS, INK, PROPERTIES
from bitdial.evaluation.page import Page, Picture, render_page
from bitdial.evaluation.plot_style import Drawing, legend_name, new_figure, render
from bitdial.evaluation.svg import tell
from tests.evaluation.parsing import Parsed
from tests.evaluation.test_page import HOSTILE


def drawn(figure: Figure | None, name: str = "a") -> Drawing:
    return render({name: figure})[name]


def lines(*labels: str, **look: Any) -> Figure:
    figure = new_figure(4, 3)
    axes = figure.subplots()
    for number, label in enumerate(labels):
        axes.plot([1, 2, 3], [number, 2, 1], "o-", label=legend_name(label), **look)
    axes.set(xlabel="step", ylabel="loss")
    return figure


def said(drawing: Drawing) -> list[list[Any]]:
    return [[series["name"], *[point[4:] for point in series["at"]]] for series in json.loads(drawing.values)]


@pytest.mark.filterwarnings("ignore:Glyph")  # a box is drawn for what the font does not have
def test_hostile_text_is_text_in_the_figure_and_in_what_is_told() -> None:
    hostile = [*(text[:60] for text in HOSTILE), "-->", "]]>", "\x00\x1b[31m", "&lt;&amp;"]
    pages = []
    for texts in (hostile, ["plain"] * len(hostile)):
        figure = lines(*texts)
        figure.legend()
        drawing = drawn(figure)
        pages.append(render_page(Page("t", [], [Picture(drawing, "c")])))
        assert [series["name"] for series in json.loads(drawing.values)] == [text.strip() for text in texts]
    page, plain = map(Parsed, pages)
    assert {*page.tags} == {*plain.tags}
    assert pages[0].count("<script") == pages[0].count("</script") == 2
    assert all(
        " ".join(text.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").split()) in page.text for text in hostile
    )


def test_colours_are_the_pages_and_nothing_is_named_outside() -> None:
    svg = drawn(lines("a", color=COLOURS[1])).svg or ""
    assert "var(--c1)" in svg
    assert "var(--ink)" in svg
    assert not re.search(r"#[0-9a-fA-F]{6}(?![\w-])|xmlns|http|font-family|<style|<metadata", svg)
    assert set(PROPERTIES) >= {colour.lower() for colour in (*COLOURS, INK)}


def test_two_figures_of_a_page_share_no_name() -> None:
    names = []
    for name in "ab":
        root = ElementTree.fromstring(drawn(lines("x"), name).svg or "")
        ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        used = re.findall(r"#(f[\w-]+)", ElementTree.tostring(root, encoding="unicode"))
        assert ids
        assert {*used} <= {*ids}
        names += ids
    assert len({*names}) == len(names)


def test_a_figure_is_the_same_each_time() -> None:
    assert drawn(lines("a", "b")) == drawn(lines("a", "b"))


def test_what_is_told_of_lines_bars_and_maps() -> None:
    figure = new_figure(9, 4)
    left, right, last = figure.subplots(1, 3)
    left.plot([1, 2, float("nan")], [0.5, 3.25, 1], label="ours")
    left.plot([1, 2], [5, 6])  # without a label, nothing is told
    (own,) = left.plot([1, 2], [5, 6])
    tell(own, "told", ["first", "second"])
    left.set(xlabel="epoch", ylabel="loss")
    right.bar([0, 1], [3, 4], label="share")
    right.set_xticks([0, 1], ["conv1", "conv2"])
    tell(last.pcolormesh(np.array([[1.0, 2.0]])), "", ["one", "two"])
    assert said(drawn(figure)) == [
        ["ours", ["1", "0.5"], ["2", "3.25"]],
        ["told", ["first"], ["second"]],
        ["share", ["conv1", "3"], ["conv2", "4"]],
        ["", ["one"], ["two"]],
    ]


def test_places_are_those_of_the_drawing() -> None:
    drawing = drawn(lines("a"))
    marks = [
        (float(use.attrib["x"]), float(use.attrib["y"]))
        for use in ElementTree.fromstring(drawing.svg or "").iter("use")
        if "fill" in use.attrib.get("style", "") and "var(--ink)" not in use.attrib["style"]
    ]
    (series,) = json.loads(drawing.values)
    np.testing.assert_allclose(marks, [point[:2] for point in series["at"]], atol=0.1)


def test_long_lines_are_thinned_in_what_is_told() -> None:
    steps = list(range(100_000))
    figure = training_curves({"a": {"training loss": (steps, np.sin(steps).tolist())}})
    drawing = drawn(figure)
    (series,) = json.loads(drawing.values)
    assert 100 < len(series["at"]) <= 240
    assert len(drawing.svg or "") + len(drawing.values) < 200_000
