import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from bitdial.evaluation.comparison import summarise
from bitdial.evaluation.drawing import FAINT
from bitdial.evaluation.plot_style import arm_styles, draw_spread, new_figure, render, save_plots
from bitdial.evaluation.plots import accuracy_against_cost, accuracy_against_width
from bitdial.evaluation.statistics import interval
from tests.evaluation.fabricate import arms_of, fabricate


@pytest.fixture(scope="module")
def comparison():
    return fabricate(seeds=3, iterations=40).comparison


def test_every_arm_and_every_interval_is_in_the_width_figure(comparison):
    axes = accuracy_against_width(comparison).axes[0]
    labels = axes.get_legend_handles_labels()[1]
    first = ["static_4bit", "cpt", "baseline_fp32", "matched_cost"]
    assert labels[:-2] == [*first, *(name for name in comparison.ranking if name not in first)]
    assert labels[-1] == "recommended: static_4bit at 4 bits"
    assert axes.get_ylabel() == "accuracy (%)"
    assert len(axes.collections) == 9  # the bars of one arm each
    single = accuracy_against_width(fabricate(seeds=1, iterations=40).comparison).axes[0]
    assert len(single.collections) == 0


def test_no_label_covers_another_label_or_a_point(comparison):
    figure = accuracy_against_cost(comparison)
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        boxes = [text.get_window_extent(renderer) for text in axes.texts]
        assert len(boxes) == 9
        for index, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        for row in comparison.summaries:
            cost = row.bitops if axes is figure.axes[0] else row.seconds
            x, y = axes.transData.transform((cost, 100 * row.own.mean))
            point = Bbox.from_bounds(x - 4, y - 4, 8, 8)
            assert not any(box.overlaps(point) for box in boxes)


def test_bitops_are_called_simulated_and_stand_beside_seconds(comparison):
    figure = accuracy_against_cost(comparison)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "training BitOps (simulated)",
        "training time (seconds, wall-clock)",
    ]


def test_the_drawn_front_is_that_of_the_comparison(comparison):
    (front,) = [line for line in accuracy_against_cost(comparison).axes[0].lines if line.get_label() == "Pareto front"]
    expected = [comparison.summary(name).bitops for name in comparison.pareto]
    assert list(front.get_xdata()) == expected


def test_a_star_stands_at_the_recommended_candidate():
    arms = arms_of("a", [0.95, 0.96], scores={4: [0.95, 0.96]}, bitops=2e12) + arms_of("b", [0.5, 0.6], bits=2)
    comparison = summarise(arms)
    for figure, x in ((accuracy_against_width(comparison), 4), (accuracy_against_cost(comparison), 2e12)):
        (star,) = [line for line in figure.axes[0].lines if line.get_label().startswith("recommended")]
        assert list(star.get_xdata()) == [pytest.approx(x, rel=0.05)]
        assert list(star.get_ydata()) == [pytest.approx(95.5)]
    assert [text.get_text() for text in figure.axes[0].texts] == ["a (8)", "b (2): 55.0% (50.0 to 60.0)", "a (4)"]


def test_what_matters_has_a_colour_and_the_rest_is_grey_with_a_marker_each(comparison):
    styles = arm_styles(comparison.summaries, comparison.recommended)
    assert len({style.marker for style in styles.values()}) == 9
    bright = {name: style.colour for name, style in styles.items() if style.stands_out}
    assert {*bright} == {"static_4bit", "cpt", "baseline_fp32", "matched_cost"}
    assert len({*bright.values()}) == 4
    assert {style.colour for style in styles.values() if not style.stands_out} == {FAINT}


def test_an_arm_far_below_stands_at_the_foot_with_its_number():
    arms = [*arms_of("a", [0.96]), *arms_of("b", [0.955], bits=4), *arms_of("c", [0.953], bits=3)]
    (left, _) = accuracy_against_cost(summarise([*arms, *arms_of("bad", [0.1], bits=2)])).axes
    low, high = left.get_ylim()
    assert 90 < low < 95.3
    assert high < 98
    assert left.get_ylabel() == f"accuracy at its own width (%), from {low:.3g} on"
    assert "bad (2): 10.0%" in [text.get_text() for text in left.texts]
    assert accuracy_against_cost(summarise(arms)).axes[0].get_ylabel() == "accuracy at its own width (%)"


def test_difficult_names_are_drawn():
    arms = arms_of("_hidden", [0.9]) + arms_of("$x_{$", [0.8], bits=4) + arms_of("a$b", [0.7], bits=2)
    comparison = summarise(arms)
    width, cost = accuracy_against_width(comparison), accuracy_against_cost(comparison)
    assert all(image.png.startswith(b"\x89PNG") for image in render({"width": width, "cost": cost}).values())
    labels = width.axes[0].get_legend_handles_labels()[1]
    assert labels[:-2] == [" _hidden", r"\$x_{\$", r"a\$b"]


def test_what_had_nothing_to_draw_leaves_no_file(tmp_path, comparison):
    images = render({"none": None, "width": accuracy_against_width(comparison)})
    (path,) = save_plots(images, tmp_path / "new" / "plots")
    assert path == tmp_path / "new" / "plots" / "width.png"
    assert path.read_bytes() == images["width"].png


def test_of_two_seeds_both_are_drawn_and_no_interval():
    axes = new_figure(3, 3).subplots()
    values = [interval([0.96, 0.98]), interval([0.9]), interval([0.9, 0.92, 0.94])]
    draw_spread(axes, [2.0, 4.0, 8.0], values, "#000000", scale=100)
    (dots,) = (line for line in axes.lines if line.get_marker() == "o")
    assert dots.get_xydata().tolist() == [pytest.approx([2, 96]), pytest.approx([2, 98])]
    bars = [path.vertices[:, 1].tolist() for each in axes.collections for path in each.get_paths()]
    half = 100 * values[2].half
    assert sorted(bars) == [pytest.approx([92 - half, 92 + half]), pytest.approx([96, 98])]
