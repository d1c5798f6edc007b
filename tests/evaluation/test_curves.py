"""What training curves draw: the panels that a log has, and of several runs a line each."""

from __future__ import annotations

from pathlib import Path

from bitdial.evaluation.curves import BITS, FLIPS, LOSS, RATE, flips_of_log, panels_of_log, training_curves

LOG = """experiment,seed,step,train_loss,learning_rate,bits,flips/a,flips/b,val_loss
twn,0,2,2.0,0.1,,0.1,0.3,
float,0,2,1.5,0.1,,,,
twn,0,4,1.0,0.05,,0.0,0.1,
twn,0,4,,,,,,0.9
twn,1,2,3.0,0.1,,0.2,0.2,
"""


def test_the_log_of_one_network(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(LOG)
    panels = panels_of_log(path, {"experiment": "twn", "seed": "0"})
    assert {name: values for name, (_, values) in panels.items()} == {LOSS: [2, 1], RATE: [0.1, 0.05], FLIPS: [10, 2.5]}
    assert panels[LOSS][0] == [2, 4]
    assert [*panels_of_log(path, {"experiment": "float", "seed": "0"})] == [LOSS, RATE]
    path.with_name("layers.csv").write_text("experiment,seed,step,flips/a,flips/b\nfloat,0,2,0.5,0.25\n")
    assert panels_of_log(path, {"experiment": "float", "seed": "0"})[FLIPS] == ([2], [18.75])
    assert panels_of_log(path, {"experiment": "none"}) == {}
    assert panels_of_log(tmp_path / "nowhere" / "metrics.csv", {}) == {}


def test_rows_at_the_end_of_an_epoch_are_no_dents(tmp_path: Path) -> None:
    rows = [(20, 0.2), (22, 0.02), (40, 0.18), (44, 0.04), (60, 0.16), (62, 0.02)]
    (tmp_path / "layers.csv").write_text("step,flips/a\n" + "".join(f"{step},{share}\n" for step, share in rows))
    steps, values = flips_of_log(tmp_path / "metrics.csv", {})[FLIPS]
    assert steps == [20, 40, 60]
    assert [round(value, 9) for value in values] == [1, 1, 1]


def test_a_panel_for_what_any_run_has_and_a_line_for_each(tmp_path: Path) -> None:
    steps = [0, 1, 2]
    runs = {"a": {LOSS: (steps, [3, 2, 1]), FLIPS: (steps, [1, 0, 0])}, "b": {LOSS: (steps, [4, 3, 2])}}
    figure = training_curves(runs, colours={"a": "#000000", "b": "#ffffff"})
    assert figure is not None
    loss, flips = figure.axes
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    assert (loss.get_ylabel(), flips.get_ylabel()) == ("training loss (nats)", "flips (% a step)")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert training_curves({}) is None
    assert training_curves({"a": {BITS: ([0], [4])}}) is not None
