import io

import pytest
from rich.console import Console

from bitdial.evaluation.comparison import summarise
from bitdial.evaluation.table import comparison_table
from tests.evaluation.fabricate import arms_of, fabricate


def shown(comparison, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(comparison_table(comparison, width=width))
    return console.file.getvalue()


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("width", [80, 100, 140])
def test_fits_and_cuts_no_number(seeds, width):
    comparison = fabricate(seeds=seeds, iterations=40).comparison
    text = shown(comparison, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for row in comparison.summaries:
        line = next(line for line in text.splitlines() if line[1:].startswith(row.name[:16]))
        for value in row.accuracy.values():
            assert f"{100 * value.mean:.1f}" in line
        assert f"{row.bitops / 1e12:.2f}" in line
        assert f"{row.seconds:.0f}" in line.split()
        assert f"{row.average_bits:g}" in line.split()


def test_names_are_whole_where_there_is_room():
    assert "ablation_random_cycling" in shown(fabricate(seeds=3, iterations=40).comparison, 110)


def test_intervals_only_with_several_seeds():
    assert "±" in shown(fabricate(seeds=3, iterations=40).comparison, 100)
    single = shown(fabricate(seeds=1, iterations=40).comparison, 100)
    assert "±" not in single
    assert "One seed: no interval." in single


def test_bitops_are_called_simulated_and_stand_beside_seconds():
    header = shown(fabricate(seeds=1, iterations=40).comparison, 100).splitlines()[1:3]
    assert header[0].split()[-2:] == ["BitOps", "wall"]
    assert header[1].split()[-2:] == ["(sim.)", "sec."]


def test_marks_the_recommended_arm_and_leaves_gaps_where_nothing_was_measured():
    comparison = summarise(arms_of("a", [0.9], bits=4) + arms_of("b", [0.8], bits=2))
    lines = shown(comparison, 80).splitlines()
    (best,) = [line for line in lines if line.startswith(">a")]
    assert best.split()[:3] == [">a", "\u2013", ">90.0"]
    assert sum(line.count(">") for line in lines) == 3  # the caption has the third


@pytest.mark.parametrize("width", [80, 120])
def test_marks_the_recommended_width_where_it_is_not_the_own_one(width):
    comparison = summarise(arms_of("a", [0.9], scores={4: [0.9]}))
    (best,) = [line for line in shown(comparison, width).splitlines() if line.startswith(">a")]
    assert best.split()[:4] == [">a", ">90.0", "90.0", "8"]


def test_marks_alternating_widths_where_they_are_recommended():
    comparison = summarise(arms_of("a", [0.9], bits=3, label="2/4 alternating", scores={3: [0.8]}))
    (best,) = [line for line in shown(comparison, 120).splitlines() if line.startswith(">a")]
    assert best.split()[:4] == [">a", "80.0", "2/4:", ">90.0"]


def test_names_are_not_markup():
    assert "[red]x" in shown(summarise(arms_of("[red]x", [0.9])), 80)
