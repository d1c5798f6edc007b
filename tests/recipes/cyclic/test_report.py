import html
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from bitdial.evaluation.page import render_page
from bitdial.recipes.cyclic.report import render, report_page, save_plots, write_report
from bitdial.recipes.cyclic.results import collect_results
from tests.evaluation.fabricate import arms_of, fabricate
from tests.evaluation.parsing import Parsed

DOCS = Path(__file__).parents[3] / "docs" / "report.md"


def rendered(results):
    return render_page(report_page(results, render(results)))


@pytest.fixture(scope="module")
def results():
    return fabricate(seeds=3, iterations=60)


@pytest.fixture(scope="module")
def page(results):
    return rendered(results)


def test_the_page_needs_nothing_from_outside(page):
    parsed = Parsed(page)
    assert parsed.tags.count("figure") == parsed.tags.count("svg") == 5
    assert all(address.startswith("#") for address in parsed.addresses)  # of markers, in the figure itself
    assert not {"link", "iframe", "object", "img"} & set(parsed.tags)
    assert parsed.tags.count("script") == 5 + 1  # the values of each figure, and what shows them
    assert "@import" not in page
    assert not re.search(r"url\((?!#)|https?:", page)


def test_the_page_says_what_was_found(page, results):
    text = Parsed(page).text
    assert results.comparison.reason in text
    assert results.command in text
    assert results.machine.processor in text
    assert "num_cpt_iterations: 60" in text
    for note in results.notes:
        assert note in text
    for row in results.comparison.summaries:
        assert row.name in text
        assert f"{100 * row.own.mean:.1f} ± {100 * row.own.half:.1f}" in text


def test_sections_stand_in_reading_order(page):
    sections = [part.split("</h2>")[0] for part in page.split("<h2>")[1:]]
    assert sections == [
        "Comparison", "Cost", "Cyclic training against each other arm", "Plots", "Cycles", "Notes", "How to reproduce",
        "Machine",
    ]  # fmt: skip


def test_every_cycling_arm_and_seed_has_its_row(page, results):
    table = page.split("<h2>Cycles</h2>")[1].split("</table>")[0]
    assert table.count("<tr>") == 1 + len(results.cycles)
    first = results.cycles[0]
    assert f"{first.cycles[0].mean:.3f} → {first.cycles[-1].mean:.3f}" in table
    assert f"<td>{first.stability_score:.2f}</td>" in table


def test_one_seed_says_that_there_is_no_interval_and_divergence_is_noted(tmp_path):
    results = fabricate(seeds=1, iterations=60, diverged=True)
    text = write_report(results, tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "cpt, seed 0: 1 of 60 logged losses are not finite." in text
    assert "One seed: no interval." in text


def test_strings_of_the_user_are_escaped():
    evil = "<script>alert('x')</script>"
    results = collect_results(arms_of(evil, [0.9]), config={"name": evil}, command=evil, experiment=evil, notes=[evil])
    page = rendered(results)
    assert "<script>alert" not in page
    assert page.count(html.escape("<script>alert", quote=False)) >= 5
    Parsed(page)


def test_a_run_without_history_cycles_or_command_still_reports():
    text = Parsed(rendered(collect_results(arms_of("a", [0.9, 0.8]), config={}))).text
    assert "No arm has a history" in text
    assert "No arm cycled" in text


@pytest.mark.usefixtures("drawn")
def test_a_picture_of_every_figure(tmp_path, results):
    paths = save_plots(results, tmp_path / "plots")
    assert [path.stem for path in paths] == [*render(results)]
    assert len(paths) == 5
    for path in paths:
        pixels = imread(path)[..., :3]
        assert pixels.shape[1] > 1200
        assert len(np.unique(pixels @ [1.0, 1e3, 1e6])) > 50  # colours: something is drawn


def test_no_cycles_and_no_history_leave_those_figures_out(tmp_path):
    results = collect_results(arms_of("a", [0.9]), config={})
    assert [path.stem for path in save_plots(results, tmp_path)] == ["accuracy_by_width", "accuracy_by_cost"]


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch, results):
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.S)
    monkeypatch.chdir(tmp_path)
    results.save("runs/cyclic-1/cyclic_precision_results.json")
    for example in examples[:2]:
        exec(example, {})
    assert Parsed(Path("report.html").read_text(encoding="utf-8")).text.count(results.comparison.reason) == 1
    assert "small_net 97.1 better large_net" in Parsed(Path("small_or_large.html").read_text(encoding="utf-8")).text
    assert len(list(Path("plots").glob("*.png"))) == 5
