"""The figure of accuracy against width: what is in it, that nothing covers anything, what it refuses."""

from __future__ import annotations

import io
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bitdial.errors import BitdialError
from bitdial.evaluation import plot_bitwidth_vs_accuracy


def drawn(count, layers=8, noise=0.01, seed=0):
    generator = np.random.default_rng(seed)
    bits = generator.choice([2, 4, 8], size=(count, layers)).mean(1)
    return bits, np.clip(0.9 - 0.5 * np.exp(-bits / 2) + noise * generator.standard_normal(count), 0, 1)


CASES = {
    "few": (*drawn(4), 3, "Four"),
    "many": (*drawn(500), 1000, "Five hundred"),
    "one width": ([8.0] * 12, list(drawn(12)[1]), 5, "One width"),
    "one point": ([12.45], [0.8912], None, "One point"),
    "two": ([2.0, 8.0], [0.5, 0.9], 0, "Two"),
    "constant": ([2.0, 4.0, 8.0], [1.0, 1.0, 1.0], 0, "All right"),
    "none right": ([2.0, 4.0], [0.0, 0.0], 0, "None right"),
    "not finite": ([2.0, 3.0, 4.0], [math.nan, 0.5, 0.8], 7, "A seed diverged"),
    "nothing finite": ([2.0, 4.0], [math.nan] * 2, 7, "All diverged"),
    "long title": (*drawn(30), 123, "W" * 300),
    "difficult title": (*drawn(30), 1, r"$x_{$ [red]\alpha^$ 50% _a" + "\nsecond line"),
    "empty title": (*drawn(30), 1, ""),
}


@pytest.fixture(params=CASES)
def figure(request):
    return plot_bitwidth_vs_accuracy(*CASES[request.param])


def boxes(figure):
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    (axes,) = figure.axes
    parts = {"box": axes._left_title.get_bbox_patch(), "x": axes.xaxis.label, "y": axes.yaxis.label}
    parts["legend"] = figure.legends[0]
    if figure.get_suptitle():
        parts["title"] = figure._suptitle
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        inside = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        parts |= {f"{name}{number}": tick.label1 for number, tick in enumerate(inside)}
    extents = {name: part.get_window_extent(renderer) for name, part in parts.items()}
    return extents, axes.get_window_extent(renderer), figure.bbox


def test_nothing_covers_anything_and_all_is_inside(figure):
    extents, plot, whole = boxes(figure)
    for (one, first), (other, second) in combinations(extents.items(), 2):
        assert not first.overlaps(second), (one, other)
    for name, box in extents.items():
        assert not box.overlaps(plot), name
        assert whole.x0 <= box.x0, name
        assert box.x1 <= whole.x1, name
        assert whole.y0 <= box.y0, name
        assert box.y1 <= whole.y1, name


def test_becomes_a_small_file(figure):
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        assert 5_000 < len(file.getvalue()) < 100_000


def lines_of(figure):
    return {line.get_label(): line for line in figure.axes[0].lines}


def test_points_means_deviations_and_ranges_of_widths_rounded_to_a_tenth():
    bits, values = [2.04, 1.96, 4.0, 4.0, 4.0, 4.3], [0.5, 0.7, 0.8, 0.85, 0.9, 0.95]
    figure = plot_bitwidth_vs_accuracy(bits, values, 1, "x")
    lines = lines_of(figure)
    assert lines["configuration"].get_xydata().tolist() == [
        [b, pytest.approx(100 * v)] for b, v in zip(bits, values, strict=True)
    ]
    assert lines["mean"].get_xydata().tolist() == [
        [2, pytest.approx(60)],
        [4, pytest.approx(85)],
        [4.3, pytest.approx(95)],
    ]
    assert lines["mean"].get_color() == "#C8102E"
    std, span = (collection.get_segments() for collection in figure.axes[0].collections)
    deviation = float(np.std([80, 85, 90]))
    assert std[1].tolist() == [[4, pytest.approx(85 - deviation)], [4, pytest.approx(85 + deviation)]]
    assert [part[:, 1].tolist() for part in span[:2]] == [pytest.approx([50, 70]), pytest.approx([80, 90])]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "configuration",
        "mean",
        "\u00b1 1 std",
        "range",
    ]
    assert "78.33 \u00b1 14.91 % at 3.38 \u00b1 0.98 bits" in figure.axes[0].get_title("left")


@pytest.mark.parametrize("form", [tuple, np.array, torch.tensor])
def test_numbers_come_in_any_form(form):
    figure = plot_bitwidth_vs_accuracy(form([2.0, 4.0]), form([0.5, 0.75]))
    assert lines_of(figure)["mean"].get_xydata().tolist() == [[2, 50], [4, 75]]


def test_one_width_stands_side_by_side():
    figure = plot_bitwidth_vs_accuracy([8.0, 8.04, 8.0], [0.9, 0.8, 0.7], 1, "x")
    lines = lines_of(figure)
    assert lines["configuration"].get_xdata().tolist() == [1, 2, 3]
    assert list(lines["mean"].get_ydata()) == [pytest.approx(80)] * 2
    assert figure.axes[0].get_xlabel() == "configuration (all at 8 bits)"


def test_what_is_not_finite_is_shown_and_in_no_mean():
    figure = plot_bitwidth_vs_accuracy([2.0, 2.0, 4.0], [math.nan, 0.5, math.inf], 1, "x")
    lines = lines_of(figure)
    assert lines["not finite"].get_xdata().tolist() == [2, 4]
    assert lines["mean"].get_xydata().tolist() == [[2, 50]]
    assert "the 1 finite of 3" in figure.axes[0].get_title("left")


def test_a_title_is_shown_as_it_is():
    title = r"$\alpha$ [red]x[/]"
    figure = plot_bitwidth_vs_accuracy([2.0, 4.0], [0.5, 0.6], 3, title)
    assert figure.get_suptitle() == f"{title}, epoch 3"
    assert not figure._suptitle.get_parse_math()
    assert plot_bitwidth_vs_accuracy([2.0], [0.5], title=title).get_suptitle() == title


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (([], []), "equally long, .*got 0 and 0"),
        (([2.0], [0.5, 0.6]), "equally long, .*got 1 and 2"),
        (([2.0], []), "equally long"),
        (([0.5], [0.5]), "in \\[1, 32\\], got 0.5"),
        (([64.0], [0.5]), "in \\[1, 32\\], got 64"),
        (([math.nan], [0.5]), "in \\[1, 32\\], got nan"),
        (([8.0], [89.1]), "fractions in \\[0, 1\\], got 89.1; divide percentages by 100"),
        (([8.0], [1.0000001]), "got 1.0000001"),
        ((np.full((2, 2), 4.0), np.full((2, 2), 0.5)), "bitwidths must be numbers, got \\[4.0, 4.0\\]"),
        (([8.0], [-0.1]), "fractions in \\[0, 1\\]"),
        (("8", [0.5]), "bitwidths must be a list of numbers, got str"),
        ((8.0, 0.5), "bitwidths must be a list of numbers, got float"),
        (([8.0], (v for v in [0.5])), "accuracies must be a list of numbers, got generator"),
        (([8.0], ["0.5"]), "accuracies must be numbers, got '0.5'"),
        (([8.0], [None]), "accuracies must be numbers, got None"),
        (([8.0], [0.5], -1), "epoch must be a whole number"),
        (([8.0], [0.5], "3"), "epoch must be a whole number"),
        (([8.0], [0.5], 1.5), "epoch must be a whole number"),
        (([8.0], [0.5], 1, 3), "title must be a text, got int"),
        (([8.0], [0.5], 1, None), "title must be a text"),
    ],
)
def test_bad_input_is_one_sentence(bad, says):
    with pytest.raises(BitdialError, match=says) as error:
        plot_bitwidth_vs_accuracy(*bad)
    assert "\n" not in str(error.value)
