"""The records: what is summed up from the networks, what is refused when read, and what the table and report show."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bitdial.errors import BitdialError
from bitdial.evaluation import describe_machine
from bitdial.evaluation.page import render_page
from bitdial.evaluation.results import EarlyStop
from bitdial.evaluation.wording import bytes_text
from bitdial.recipes.ternary import NetworkResult, TernaryResults
from bitdial.recipes.ternary.answer import answer_of
from bitdial.recipes.ternary.report import captions, render_plots, report_page
from bitdial.recipes.ternary.results import Curve, Score, Sizes, results_table, summarise
from bitdial.recipes.ternary.winner import winner


def network(experiment: str, seed: int, accuracy: float, quantizer: str = "twn", **changes: Any) -> NetworkResult:
    score = Score(accuracy=accuracy, loss=1.0)
    ternary = quantizer != "none"
    settings: dict[str, Any] = {
        "quantizer": quantizer,
        "activation_bits": 32,
        "asked": {"epochs": 2, "steps": None, "patience": None},
        "epochs": 2,
        "steps": 10,
        "stopped_early": False,
        "seconds": 3.0,
        "shipped": "best",
        "shipped_epoch": 2,
        "validation": score,
        "test": score,
        "test_last": score,
        "parameters": 100,
        "zeros": {"a": 0.2, "b": 0.4} if ternary else {},
        "sizes": Sizes(
            packed_weights=50, weights=10, scales=4, file=100, memory=400, float32_weights=200, float32=400
        ) if ternary else None,
        "file": "models/x.pt",
        "curve": Curve(
            epoch=[1, 2],
            train_loss=[2.0, 1.0],
            train_accuracy=[0.2, 0.4],
            validation_loss=[2.0, 1.0],
            validation_accuracy=[0.3, accuracy],
            learning_rate=[0.1, 0.01],
        ),
    }  # fmt: skip
    return NetworkResult(experiment=experiment, seed=seed, **{**settings, **changes})


def results(networks: list[NetworkResult]) -> TernaryResults:
    summaries, reference = summarise(networks)
    chosen, why = winner(networks) or (None, "")
    return TernaryResults(
        created="2026-01-01T00:00:00+00:00",
        command="bitdial train ternary <&>",
        config={"model": "mlp", "dataset": "digits"},
        machine=describe_machine(),
        networks=networks,
        summaries=summaries,
        reference=reference,
        winner=chosen,
        sentence=why,
    )


TWO = [
    network("twn", 0, 0.80),
    network("float", 0, 0.90, "none"),
    network("twn", 1, 0.84),
    network("float", 1, 0.88, "none"),
]


def test_the_unquantized_experiment_is_the_reference_wherever_it_stands() -> None:
    summaries, reference = summarise(TWO)
    assert reference == "float"
    twn, float_ = summaries
    assert float_.difference is None
    assert twn.difference is not None
    assert twn.difference.mean == pytest.approx(-0.07)
    assert twn.difference.low is not None
    assert twn.difference.low < -0.07
    assert twn.zeros == pytest.approx(0.3)


def test_without_an_unquantized_one_the_first_is() -> None:
    assert summarise([network("a", 0, 0.5), network("b", 0, 0.6)])[1] == "a"
    assert summarise([network("a", 0, 0.5), network("a", 1, 0.6)])[1] is None


def seeds(name: str, *accuracies: float, **changes: Any) -> list[NetworkResult]:
    return [network(name, seed, accuracy, **changes) for seed, accuracy in enumerate(accuracies)]


SMALL = network("x", 0, 0.5).sizes.model_copy(update={"file": 50})  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("networks", "chosen", "told"),
    [
        (seeds("a", 0.9, 0.91, 0.92) + seeds("b", 0.8, 0.81, 0.821), "a", "the highest of 2, clear of b (+10.0 points"),
        (seeds("a", 0.9, 0.91, 0.92) + seeds("b", 0.91, 0.90, 0.911), "a", "not told apart from b"),
        (seeds("a", 0.9, 0.91, 0.92) + seeds("b", 0.91, 0.90, 0.911, sizes=SMALL), "b", "ties with a, and its file is"),
        (seeds("a", 0.9, 0.91, 0.92) + seeds("b", 0.1, 0.9, 0.2, sizes=SMALL), "a", "not told apart from b"),
        (seeds("a", 0.8) + seeds("b", 0.9), "b", "with one seed its lead over a may be chance"),
    ],
)
def test_a_winner_is_named_by_its_interval(networks: list[NetworkResult], chosen: str, told: str) -> None:
    float_ = seeds("float", 0.99, 0.99, 0.99, quantizer="none")
    found = winner([*float_, *networks])
    assert found is not None
    assert found[0] == chosen
    assert found[1].startswith(f"Ship {chosen}: ")
    assert told in found[1]


def test_what_is_alone_or_has_no_accuracy_has_no_winner() -> None:
    assert winner(TWO) is None
    assert winner([*seeds("a", 0.9), *seeds("b", math.nan)]) is None


def test_the_table_says_what_it_found() -> None:
    console = Console(width=100, record=True)
    console.print(results_table(results(TWO)))
    text = console.export_text()
    assert "80.0 to" in text  # both of two seeds, below their mean
    assert "\u221210.0 to" in text
    assert "30.0%" in text
    assert "4.0x" in text


def test_nothing_in_the_table_is_cut_at_80_columns() -> None:
    console = Console(width=80, record=True)
    console.print(results_table(results(TWO), width=80))
    text = console.export_text()
    assert "…" not in text
    assert all(part in text for part in ("twn", "float32", "84.0", "\u22124.0", "30.0%", "(4.0x)", "sec."))


def test_the_size_stands_on_one_line_where_no_intervals_take_its_room() -> None:
    console = Console(width=80, record=True)
    one_seed = [network("float", 0, 0.9, "none"), network("twn", 0, 0.8)]
    console.print(results_table(results(one_seed), width=80))
    assert "(4.0x)  " in console.export_text()


def test_the_report_escapes_what_it_shows() -> None:
    found = results(TWO)
    page = render_page(report_page(found, render_plots(found)))
    assert "ternary &lt;&amp;&gt;" in page
    assert page.count("<svg") == 2


def test_captions_speak_of_what_is_drawn() -> None:
    assert "Dotted" in captions([network("twn", 0, 0.8)])["accuracy"]
    several = captions(TWO)["accuracy"]
    assert "a line for each seed" in several
    assert "Dotted" not in several
    unseen = Curve(epoch=[1, 2], train_accuracy=[0.2, 0.4], validation_accuracy=[None, None])
    assert "No images were held out" in captions([network("twn", 0, 0.8, curve=unseen)])["accuracy"]


def test_the_report_lists_what_was_left_unquantized_wherever_the_float_network_stands() -> None:
    networks = [network("twn", 0, 0.8, unquantized={"conv1": "skipped as <first>"}), network("float", 0, 0.9, "none")]
    found = results(networks)
    page = render_page(report_page(found, {}))
    assert "conv1: skipped as &lt;first&gt;" in page
    assert "nothing was quantized" in render_page(report_page(results(networks[1:]), {}))


def test_the_answer_is_how_accurate_in_how_little() -> None:
    alone = answer_of(results([network("ternary", 0, 0.992)]))
    assert alone.headline == "99.2% in 0.1 KiB, 4.0x smaller than float"
    assert alone.quality == "99.2%; no float baseline to set it against: `--quantizer none` trains one alike."
    assert alone.certainty == (
        "One seed, so no interval; `--seeds 3` gives one. The last epoch was the best: longer training may gain more "
        "(`--epochs`)."
    )
    both = answer_of(results(TWO))
    assert both.headline == "twn: 82.0% (80.0 to 84.0) in 0.1 KiB, 4.0x smaller than float"
    assert both.quality.startswith(
        "twn: 82.0% (80.0 to 84.0), 7.0 points below float (89.0%, 88.0 to 90.0; perhaps by chance)."
    )
    assert answer_of(results([network("float", 0, 0.9, "none")])).headline == "90.0% unquantized: nothing is ternary"


def test_of_several_the_answer_names_the_best_where_it_is_told_apart() -> None:
    twn, ttq = network("twn", 0, 0.90), network("ttq", 0, 0.88, "ttq")
    assert answer_of(results([ttq, twn])).headline.startswith("Ship twn: 90.0% in")
    close = network("ttq", 0, 0.895, "ttq")
    assert answer_of(results([close, twn])).headline == "Not decided: twn for now"


def test_the_answer_says_where_training_stopped_early() -> None:
    stop = EarlyStop(unit="epoch", at=113, of=500, best=73, patience=40)
    answer = answer_of(results([network("twn", 0, 0.9, early_stop=stop)]))
    assert answer.lines["Training"] == "twn (seed 0) stopped early at epoch 113 of 500, best at 73."
    assert "longer" not in answer.certainty


def test_read_back(tmp_path: Path) -> None:
    found = results(TWO)
    assert TernaryResults.load(found.save(tmp_path / "results.json")) == found


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no results at"),
        ("{", "is not a JSON file"),
        ('{"schema_version": 2}', "schema_version"),
        ("[]", "must have schema_version 1"),
        ('{"schema_version": 1}', "of results of `bitdial train ternary`"),
    ],
)
def test_what_is_no_result_is_refused(content: str | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(BitdialError) as caught:
        TernaryResults.load(tmp_path / "results.json")
    assert sentence in str(caught.value)


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    path = results(TWO).save(tmp_path / "results.json")
    content = json.loads(path.read_text())
    content["networks"][0]["acuracy"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(BitdialError, match=r"networks\.0\.acuracy"):
        TernaryResults.load(path)


@pytest.mark.parametrize(("count", "text"), [(100, "0.1 KiB"), (2048, "2.0 KiB"), (3 << 20, "3.00 MiB")])
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text
