import re

import pytest

from bitdial.evaluation.comparison import summarise
from bitdial.evaluation.page import Page, render_page
from bitdial.evaluation.report import comparison_section, cost_section, difference_section, size
from tests.evaluation.fabricate import arms_of, fabricate
from tests.evaluation.parsing import Parsed


def rendered(comparison):
    blocks = [
        *comparison_section(comparison),
        *cost_section(comparison),
        *difference_section(comparison, title="Joint against each other arm", arm="joint"),
    ]
    return render_page(Page("t", [], blocks))


@pytest.fixture(scope="module")
def comparison():
    return fabricate(seeds=3, iterations=40).comparison


def test_every_arm_stands_in_the_order_of_the_ranking_with_its_interval(comparison):
    table = comparison_section(comparison)[2]
    assert [row.name for row in table.rows] == [f"{i}. {name}" for i, name in enumerate(comparison.ranking, 1)]
    assert [row.best for row in table.rows] == [name == comparison.recommended for name in comparison.ranking]
    for row, summary in zip(table.rows, comparison.summaries, strict=True):
        assert row.cells[0].text == f"{100 * summary.own.mean:.1f} ± {100 * summary.own.half:.1f}"


def marked(comparison, mark):
    table = comparison_section(comparison)[2]
    return [
        (row.name.split()[-1], heading)
        for row in table.rows
        for heading, cell in zip(table.columns[1:], row.cells, strict=True)
        if getattr(cell, "mark", None) == mark
    ]


def test_one_frame_is_at_the_recommended_width(comparison):
    assert marked(comparison, "framed") == [("static_4bit", "4 bits")]
    elsewhere = summarise(arms_of("a", [0.9], scores={4: [0.9]}))
    assert marked(elsewhere, "framed") == [("a", "4 bits")]
    # a target width that equals the mean of alternating widths is another candidate
    alternating = summarise(arms_of("a", [0.9], bits=3, label="2/4 alternating", scores={3: [0.8]}))
    assert marked(alternating, "framed") == [("a", "at its\nown width")]


def test_candidates_at_widths_that_they_were_not_trained_for_are_faint(comparison):
    faint = marked(comparison, "faint")
    assert [width for name, width in faint if name == "cpt"] == ["16 bits"]
    assert [width for name, width in faint if name == "matched_cost"] == ["2 bits", "4 bits", "16 bits"]
    assert not [name for name, _ in faint if name in ("baseline_fp32", "ablation_random_cycling")]


def test_the_page_says_how_it_chose(comparison):
    text = Parsed(rendered(comparison)).text
    assert "Recommended among 30 candidates" in text
    assert "each interval is taken at 99.83% (Bonferroni)" in text  # 100 - 5 / 29
    assert "chosen by the test data that it is reported on, is slightly optimistic" in text
    assert "These tie: static_8bit at 16 bits, static_8bit at 8 bits, static_mixed_4_8 at 4/8 alternating" in text
    two = Parsed(rendered(summarise(arms_of("a", [0.9, 0.8, 0.7]) + arms_of("b", [0.5, 0.4, 0.3])))).text
    assert "Recommended among 2 candidates" in two
    assert "Bonferroni" not in two
    assert "optimistic" not in two
    assert "These tie" not in two
    assert "Recommended among" not in Parsed(rendered(summarise(arms_of("a", [0.9, 0.8])))).text


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
    marks = {row.cells[0].text: row.cells[0].mark for row in table.rows}
    assert marks == {"better": "good", "worse": "bad", "not told apart": None}


def test_without_the_arm_there_are_no_differences():
    assert difference_section(summarise(arms_of("a", [0.9, 0.8])), title="t", arm="x") == []


def test_one_seed_says_that_there_is_no_interval():
    comparison = fabricate(seeds=1, iterations=40).comparison
    text = Parsed(rendered(comparison)).text
    assert size(comparison) == "9 arms, one seed"
    assert "One seed: no difference between arms has an interval" in text
    assert len(difference_section(comparison, title="t", arm="x")) == 2  # a sentence, no rows of nothing
    assert "one seed: no interval" in text
    assert "± half" not in text


def test_the_bits_of_the_dial_stand_apart_from_the_cost_weighted_mean():
    arms = [arm.model_copy(update={"average_bits": 5.16, "dial_bits": 4.0}) for arm in arms_of("a", [0.9, 0.8])]
    table = cost_section(summarise(arms))[1]
    shown = dict(zip(table.columns[1:], table.rows[0].cells, strict=True))
    assert (shown["bits of\nthe dial"], shown["cost-weighted\nbits"]) == ("4", "5.16")
    assert "bits of\nthe dial" not in cost_section(summarise(arms_of("a", [0.9])))[1].columns


def test_text_models_show_perplexity():
    arms = [
        arm.model_copy(update={"own": arm.own.model_copy(update={"perplexity": 7.25})})
        for arm in arms_of("a", [0.9, 0.8])
    ]
    table = comparison_section(summarise(arms))[2]
    assert table.columns[-1] == "perplexity"
    assert table.rows[0].cells[-1] == "7.25"
