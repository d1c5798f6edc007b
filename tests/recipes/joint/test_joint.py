"""Joint training, through the command line: trained, interrupted, resumed and reported."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import bitdial
from bitdial.cli import main
from bitdial.data import load_dataset, make_loader
from bitdial.evaluation import evaluate_loss_accuracy
from bitdial.evaluation.results import EarlyStop
from bitdial.export import save_packed
from bitdial.models import build_model
from bitdial.recipes.joint.answer import answer_of
from bitdial.recipes.joint.results import JointResults
from bitdial.recipes.saved_model import read_saved
from bitdial.training.progress import Progress
from tests.recipes.ternary.tiny import differences, state_of, stopped_before

SMALL = "--model tiny_cnn --batch_size 256 --steps 12 --log_interval 4 --warmup_steps 2 --bitwidth_options 2 4 8"
"""Five steps an epoch."""
METHODS = {
    "joint_quantization": "",
    "any_precision": "",
    "alternating": "",
    "sandwich": "",
    "matryoshka": "--loss_weights 1 .1 .1",
    "vanilla_single_precision_training": "",
}


def train(flags: str) -> int:
    return main(["train", "joint", *shlex.split(f"{SMALL} {flags}")])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint") / "run"
    assert train(f"--run_dir {folder}") == 0
    return folder


def test_what_a_run_leaves(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = JointResults.load(run / "results.json")
    (network,) = results.networks
    assert [score.bits for score in network.scores] == [2, 4, 8]
    assert network.steps == len(network.history.loss) == 12
    assert [(scores.epoch, scores.step) for scores in network.epochs] == [(1, 5), (2, 10), (2, 12)]
    assert 0 < network.seconds_validation < network.seconds
    assert len(network.sensitivity) == 2
    page = (run / "report.html").read_text()
    assert "One network for many widths" in page
    for name in ("accuracy_by_width", "bitwidth_vs_accuracy", "validation", "layer_sensitivity", "bits_and_loss"):
        assert (run / "plots" / f"{name}.png").stat().st_size > 5000
    assert main(["train", "joint", "--resume", str(run)]) == 0  # finished: shown again
    text = capsys.readouterr().out
    assert "bits   accuracy" in text
    assert f"Ship {results.ship_bits:g} bits" in text
    assert results.sentence.split(":")[0] in page
    assert str(run / "report.html") in text


def test_the_answer_is_the_width_to_ship(run: Path) -> None:
    results = JointResults.load(run / "results.json")
    (network,) = results.networks
    scores = [
        score.model_copy(update={"bits": bits, "accuracy": accuracy})
        for score, bits, accuracy in zip(network.scores, (2, 8, 32), (0.5, 0.945, 0.95), strict=True)
    ]
    ended = {"early_stop": EarlyStop(unit="step", at=9, of=12, best=5, patience=4)}
    shown = results.model_copy(
        update={"networks": [network.model_copy(update={"scores": scores, **ended})], "ship_bits": 8.0}
    )
    answer = answer_of(shown)
    assert answer.headline == "Ship 8 bits"
    assert answer.quality == "94.5%, 0.5 points below float (95.0%)."
    assert "nearest is 2 bits (44.5 points less)" in answer.certainty
    assert answer.lines["Training"] == "joint (seed 0) stopped early at step 9 of 12, best at 5."
    assert answer.cost.startswith("13.7 KiB, 4.2x smaller than float (57.1 KiB); ")
    unclear = results.verdict.model_copy(update={"kind": "unclear"})
    assert answer_of(shown.model_copy(update={"verdict": unclear})).headline == "Not decided: 8 bits for now"
    plain = answer_of(results.model_copy(update={"ship_bits": None}))
    assert plain.headline.endswith("unquantized: there are no widths to choose from")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(
            each,
            marks=pytest.mark.slow
            if each in ("sandwich", "matryoshka", "alternating", "vanilla_single_precision_training")
            else (),
        )
        for each in METHODS
    ],
)
def test_resumed_it_is_the_run_that_was_never_stopped(method: str, tmp_path: Path) -> None:
    flags = f"--training_method {method} {METHODS[method]} --no_sensitivity"
    assert train(f"{flags} --run_dir {tmp_path / 'whole'}") == 0
    for step in (1, 7):
        with stopped_before(step):
            assert train(f"{flags} --run_dir {tmp_path / str(step)}") == 130
        assert main(["train", "joint", "--resume", str(tmp_path / str(step))]) == 0
        assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / str(step))) == []
        assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / str(step) / "metrics.csv").read_bytes()


@pytest.mark.parametrize(
    "flags",
    [
        "--gradient_accumulation_steps 2",
        pytest.param("--precision bfloat16", marks=pytest.mark.slow),
        "--seeds 2",
        "--no_quantize",
        "--batch_norm shared",
    ],
)
@pytest.mark.parametrize("method", ["any_precision", pytest.param("joint_quantization", marks=pytest.mark.slow)])
def test_options_go_together(method: str, flags: str, tmp_path: Path) -> None:
    assert train(f"--training_method {method} {flags} --no_sensitivity --run_dir {tmp_path / 'run'}") == 0
    results = JointResults.load(tmp_path / "run" / "results.json")
    assert len(results.networks) == (2 if "seeds" in flags else 1)
    assert len(results.networks[0].scores) == (1 if "no_quantize" in flags else 3)


def test_validation_leaves_no_trace_in_training(tmp_path: Path) -> None:
    """Weights after training are the same however often, and at what, is looked."""
    states = []
    for number, flags in enumerate(("", "--num_configs 1 --validation_batches 2", "--validation_function simple")):
        assert train(f"{flags} --no_sensitivity --run_dir {tmp_path / str(number)}") == 0
        states.append(state_of(tmp_path / str(number))["model_state_dict"])
    assert differences(states[0], states[1]) == []
    assert differences(states[0], states[2]) == []


def test_one_more_seed(run: Path, tmp_path: Path) -> None:
    assert train(f"--run_dir {tmp_path / 'run'}") == 0
    assert main(["train", "joint", "--resume", str(tmp_path / "run"), "--seeds", "2"]) == 0
    assert [network.seed for network in JointResults.load(tmp_path / "run" / "results.json").networks] == [0, 1]


def test_the_network_is_loaded_and_dialled(run: Path) -> None:
    results, model = JointResults.load(run / "results.json"), bitdial.load(run)
    dial: Any = model.dial
    loader = make_loader(load_dataset("digits").test, 256, train=False)
    assert set(dial.weights) == {results.ship_bits}
    shipped = next(score for score in results.networks[0].scores if score.bits == results.ship_bits)
    assert evaluate_loss_accuracy(model, loader) == (shipped.loss, shipped.accuracy)
    dial.set(3)
    assert evaluate_loss_accuracy(model, loader)[0] != shipped.loss


def test_the_packed_file_scores_what_the_table_says(run: Path) -> None:
    results = JointResults.load(run / "results.json")
    assert results.packed_file is not None
    packed = bitdial.load(run / results.packed_file)
    loader = make_loader(load_dataset("digits").test, 256, train=False)
    shipped = next(score for score in results.networks[0].scores if score.bits == results.ship_bits)
    assert evaluate_loss_accuracy(packed, loader)[1] == shipped.accuracy


def test_the_size_that_is_shown_is_that_of_the_file(run: Path, tmp_path: Path) -> None:
    network, model = JointResults.load(run / "results.json").networks[0], bitdial.load(run)
    described = read_saved(next(run.glob("models/*.pt")))[0]
    for score, size in zip(network.scores, network.size_bytes, strict=True):
        model.dial.set(score.bits)  # type: ignore[union-attr]
        file = save_packed(model, tmp_path / f"{score.bits:g}.safetensors", description=described.packed())
        assert abs(file.stat().st_size - size) <= 64  # digits of widths, padding of a header
    assert network.float32 is not None
    assert 0 < network.float32.size_bytes - 4 * sum(p.numel() for p in model.parameters()) < 2**10  # and statistics


def test_one_packed_file_of_nested_grids_serves_every_width(tmp_path: Path) -> None:
    assert train(f"--training_method matryoshka --no_sensitivity --run_dir {tmp_path / 'run'}") == 0
    results = JointResults.load(tmp_path / "run" / "results.json")
    packed, whole = bitdial.load(tmp_path / "run" / str(results.packed_file)), bitdial.load(tmp_path / "run")
    loader = make_loader(load_dataset("digits").test, 256, train=False)
    assert set(packed.dial.weights) == {8}  # type: ignore[union-attr]
    for bits in (2, 4, 8):
        for model in (packed, whole):
            model.dial.set(bits)  # type: ignore[union-attr]
        assert evaluate_loss_accuracy(packed, loader) == evaluate_loss_accuracy(whole, loader)


def test_unquantized_where_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "off.yaml").write_text("quantization: {enable: false, any_precision: {bitwidth_options: [2, 4]}}\n")
    folder = tmp_path / "run"
    words = shlex.split(f"--model mlp --steps 4 --config {tmp_path / 'off.yaml'} --run_dir {folder}")
    assert main(["train", "joint", *words]) == 0
    results = JointResults.load(folder / "results.json")
    assert [score.bits for score in results.networks[0].scores] == [32]
    assert not bitdial.load(folder).dial
    assert any("unquantized" in note for note in results.notes)


def test_a_network_and_data_of_a_script(tmp_path: Path) -> None:
    """Nothing is held out of such data, and the report says so."""
    torch.manual_seed(0)
    data = [(torch.randn(64, 1, 8, 8), torch.arange(64) % 10) for _ in range(2)]
    network = build_model("tiny_cnn", num_classes=10, in_channels=1, image_size=8)
    options: dict[str, Any] = {"steps": 3, "training_method": "any_precision", "bitwidth_options": [2, 8]}
    results = bitdial.run("joint", model=network, data=data, run_dir=tmp_path / "run", **options)
    assert isinstance(results, JointResults)
    assert any("looks at the test data, as nothing was held out" in note for note in results.notes)
    assert results.packed_file is not None
    fresh = build_model("tiny_cnn", num_classes=10, in_channels=1, image_size=8)
    assert bitdial.load(tmp_path / "run", model=fresh).dial


def test_evaluate_measures_it_at_any_width(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, int | None, int]] = []
    monkeypatch.setattr(Progress, "update", lambda self, done: shown.append((self.label, self.total, done)))
    assert main(["evaluate", str(run), "--bits", "3", "8"]) == 0
    assert "joint, seed 0 (recommended), on the 359 test images of digits" in capsys.readouterr().out
    batches = len(shown)
    assert batches > 4  # of two widths, each re-estimated and scored
    assert shown == [("measuring joint", batches, done) for done in range(1, batches + 1)]
