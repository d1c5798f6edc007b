import re

import pytest

from bitdial.evaluation.comparison import summarise
from bitdial.evaluation.page import Page, render_page
from bitdial.evaluation.report import comparison_section, cost_section, difference_section, size, tiles
from tests.evaluation.fabricate import arms_of, fabricate
from tests.evaluation.parsing import Parsed


def rendered(comparison):
    blocks = [
        *comparison_section(comparison),
        *cost_section(comparison),
        *difference_section(comparison, title="Joint against each other arm", arm="joint"),
    ]
    return render_page(Page("t", [], blocks, tiles=tiles(comparison)))


@pytest.fixture(scope="module")
def comparison():
    return fabricate(seeds=3, iterations=40).comparison


def test_every_arm_stands_in_the_order_of_the_ranking_with_its_interval(comparison):
    table = comparison_section(comparison)[1]
    assert [row.name for row in table.rows] == [f"{i}. {name}" for i, name in enumerate(comparison.ranking, 1)]
    assert [row.best for row in table.rows] == [name == comparison.recommended for name in comparison.ranking]
    for row, summary in zip(table.rows, comparison.summaries, strict=True):
        assert row.cells[-1] == f"{100 * summary.own.mean:.1f} ± {100 * summary.own.half:.1f}"


def test_the_frame_is_at_the_width_that_ships(comparison):
    table = comparison_section(comparison)[1]
    for row, summary in zip(table.rows, comparison.summaries, strict=True):
        framed = [
            heading
            for heading, cell in zip(table.columns[1:], row.cells, strict=True)
            if getattr(cell, "mark", None) == "framed"
        ]
        whole = summary.own_bits in (2, 4, 8, 16, 32)
        assert framed == ([f"{summary.own_bits:g} bit"] if whole else [])


def test_simulated_cost_never_stands_without_seconds(comparison):
    heads = re.findall(r"<thead>.*?</thead>", rendered(comparison), flags=re.S)
    costs = [head for head in heads if "BitOps" in head]
    assert costs
    assert all("(simulated)" in head and "(wall-clock)" in head for head in costs)


def test_differences_name_the_arm_that_is_compared(comparison):
    text = Parsed(rendered(comparison)).text
    assert "Joint against each other arm" in text
    assert "Accuracy of the joint model minus that of the arm" in text
    assert "joint is" in text
    assert "CPT" not in text
    table = difference_section(comparison, title="t", arm="x")[1]
    marks = {row.cells[-1].text: row.cells[-1].mark for row in table.rows}
    assert marks == {"better": "good", "worse": "bad", "not told apart": None}


def test_without_the_arm_there_are_no_differences():
    assert difference_section(summarise(arms_of("a", [0.9, 0.8])), title="t", arm="x") == []


def test_one_seed_says_that_there_is_no_interval():
    comparison = fabricate(seeds=1, iterations=40).comparison
    text = Parsed(rendered(comparison)).text
    assert size(comparison) == "9 arms, one seed"
    assert "one seed: not known" in text
    assert "one seed, so no interval" in text
    assert "± half" not in text


def test_the_tiles_are_of_the_recommended_arm(comparison):
    best = comparison.summary(comparison.recommended)
    assert size(comparison) == "9 arms, 3 seeds"
    assert [tile.value for tile in tiles(comparison)][:2] == [best.name, best.own_label]
    assert tiles(comparison)[2].label == "accuracy as shipped, 95% interval"


def test_text_models_show_perplexity():
    arms = [
        arm.model_copy(update={"own": arm.own.model_copy(update={"perplexity": 7.25})})
        for arm in arms_of("a", [0.9, 0.8])
    ]
    table = comparison_section(summarise(arms))[1]
    assert table.columns[-1] == "perplexity"
    assert table.rows[0].cells[-1] == "7.25"
