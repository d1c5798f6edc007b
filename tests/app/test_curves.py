"""Drawings: thinned without losing a stretch, round ticks, names as text, and no mean of configurations."""

from __future__ import annotations

import math
import re

import pytest

from bitdial.app.web.curves import MOST, WIDTH, Chart, draw, thinned, ticks
from bitdial.app.web.views import charts_of


def test_many_points_are_thinned_to_means_of_stretches() -> None:
    points = [(float(x), float(x % 2)) for x in range(10 * MOST)]
    found = thinned(points)
    assert len(found) == MOST
    assert {y for _, y in found} == {0.5}
    assert found[-1][0] == points[-1][0]


def test_what_is_not_finite_is_left_out() -> None:
    assert thinned([(1, math.nan), (2, 3), (3, math.inf)]) == [(2.0, 3.0)]
    assert draw(Chart("loss", {"a": [(1, math.nan)]})) == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3, 3), (0, 0), (-2, -2), (1e-9, 2e-9), (5, 1e9)])
def test_ticks_reach_around_the_values(low: float, high: float) -> None:
    found = ticks(low, high, 4)
    assert found[0] <= low + 1e-9 * abs(low)
    assert found[-1] >= high - 1e-9 * abs(high)
    assert 2 <= len(found) <= 8
    assert found == sorted(set(found))


def test_names_are_text() -> None:
    found = draw(Chart("<b>t", {"<script>": [(1, 2), (2, 1)]}))
    assert "<script>" not in found
    assert "&lt;script&gt;" in found
    assert "<b>t" not in found


def test_of_widths_the_one_that_the_dial_follows_is_drawn() -> None:
    rows = [{"step": 1, "bits": 5.5, "Bitwidth/mean_bitwidth": 7.5}, {"step": 2, "bits": 6.5}]
    (chart,) = charts_of({"": rows})
    assert "6.5" in chart
    assert "7.5" not in chart.partition("<ul>")[2]
    assert chart.partition("<ul>")[0].count("<path") == 1


def test_numbers_beside_the_axes_lie_within_the_drawing() -> None:
    chart = draw(Chart("t", {"a": [(0, 0.002), (100_000, 0.003)]}))
    labels = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">([^<]+)<', chart)
    assert {"0.00225", "100k"} <= {text for _, _, text in labels}
    for place, anchor, text in labels:
        wide = 6.0 * len(text)
        left = float(place) - (wide if anchor == "end" else wide / 2)
        assert left >= 0, text
        assert left + wide <= WIDTH + 1, text


def test_lines_of_one_colour_have_other_dashes_and_the_names_of_many_are_folded() -> None:
    chart = draw(Chart("t", {str(number): [(0, 0), (1, number)] for number in range(30)}))
    looks = re.findall(r'<path class="(c\d d\d)" d="M[^"]+L', chart)
    assert len(looks) == len({*looks}) == 30
    assert "<summary>30 lines</summary>" in chart
    assert "<summary>" not in draw(Chart("t", {"a": [(0, 0), (1, 1)]}))


def test_of_losses_of_steps_and_their_means_the_means_are_drawn() -> None:
    rows = [{"step": 1, "train_bpp": 0.5, "val_bpp": 0.4, "bpp": 0.9}]
    (chart,) = charts_of({"": rows})
    assert "0.9" not in chart.partition("<ul>")[2]
    (chart,) = charts_of({"": [{"step": 1, "val_bpp": 0.4, "bpp": 0.9}]})
    assert "0.9" in chart.partition("<ul>")[2]
