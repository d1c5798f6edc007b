import html
import re
from html.parser import HTMLParser

import pytest

from bitdial.evaluation.assemble import assemble
from bitdial.evaluation.report import render_report, write_report
from tests.evaluation.fabricate import arms_of, fabricate

VOID = {"meta", "img", "br", "wbr", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps the links, the images and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.tags, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page():
    return render_report(fabricate(seeds=3, iterations=60))


def test_the_page_needs_nothing_from_outside(page):
    parsed = Page(page)
    assert len(parsed.addresses) == 4
    assert all(address.startswith("data:image/png;base64,") for address in parsed.addresses)
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    assert "@import" not in page
    assert "url(" not in page


def test_the_page_says_what_was_found(page):
    results = fabricate(seeds=3, iterations=60)
    text = " ".join(" ".join(Page(page).text).split())
    assert results.comparison.reason in text
    assert results.command in text
    assert results.machine.processor in text
    assert "num_cpt_iterations: 60" in text
    for note in results.notes:
        assert note in text
    for row in results.comparison.summaries:
        assert row.name in text.replace("_ ", "_")
        assert f"{100 * row.own.mean:.1f} ± {100 * row.own.half:.1f}" in text
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_simulated_cost_never_stands_without_seconds(page):
    heads = re.findall(r"<thead>.*?</thead>", page, flags=re.S)
    costs = [head for head in heads if "BitOps" in head]
    assert costs
    assert all("(simulated)" in head and "(wall-clock)" in head for head in costs)


def test_one_seed_says_that_there_is_no_interval_and_divergence_is_noted(tmp_path):
    results = fabricate(seeds=1, iterations=60, diverged=True)
    text = write_report(results, tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "cpt, seed 0: 1 of 60 logged losses are not finite." in text
    assert "One seed: no interval." in text
    assert "one seed: not known" in text
    assert "± half" not in text


def test_strings_of_the_user_are_escaped():
    evil = "<script>alert('x')</script>"
    results = assemble(arms_of(evil, [0.9]), config={"name": evil}, command=evil, experiment=evil, notes=[evil])
    page = render_report(results)
    assert "<script" not in page
    assert page.count(html.escape("<script>alert", quote=False)) >= 5
    Page(page)


def test_a_run_without_history_cycles_or_command_still_reports():
    text = " ".join(Page(render_report(assemble(arms_of("a", [0.9, 0.8]), config={}))).text)
    assert "No arm has a history" in text
    assert "No arm cycled" in text


def test_text_models_show_perplexity():
    arms = [
        arm.model_copy(update={"own": arm.own.model_copy(update={"perplexity": 7.25})})
        for arm in arms_of("a", [0.9, 0.8])
    ]
    text = render_report(assemble(arms, config={}))
    assert "<th>perplexity</th>" in text
    assert "<td>7.25</td>" in text
