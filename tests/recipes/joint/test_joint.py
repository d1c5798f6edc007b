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
from bitdial.layers import BitDial, cost, quantize
from bitdial.models import build_model
from bitdial.recipes.joint.options import JointConfig
from bitdial.recipes.joint.recipe import InPasses, JointResults, draws
from bitdial.training import Classification
from tests.recipes.ternary.tiny import differences, state_of, stopped_before

SMALL = "--model tiny_cnn --steps 12 --log_interval 4 --warmup_steps 2 --bitwidth_options 2 4 8"


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
    page = (run / "report.html").read_text()
    assert "One network for many widths" in page
    assert (run / "plots" / "accuracy_by_width.png").stat().st_size > 5000
    assert main(["train", "joint", "--resume", str(run)]) == 0  # finished: shown again
    assert "bits   accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("step", [1, 7])
def test_resumed_it_is_the_run_that_was_never_stopped(run: Path, step: int, tmp_path: Path) -> None:
    with stopped_before(step):
        assert train(f"--run_dir {tmp_path / 'run'}") == 130
    assert main(["train", "joint", "--resume", str(tmp_path / "run")]) == 0
    assert differences(state_of(run), state_of(tmp_path / "run")) == []
    assert (run / "metrics.csv").read_bytes() == (tmp_path / "run" / "metrics.csv").read_bytes()


def test_one_more_seed(run: Path, tmp_path: Path) -> None:
    assert train(f"--run_dir {tmp_path / 'run'}") == 0
    assert main(["train", "joint", "--resume", str(tmp_path / "run"), "--seeds", "2"]) == 0
    assert [network.seed for network in JointResults.load(tmp_path / "run" / "results.json").networks] == [0, 1]


def test_the_network_is_loaded_and_dialled(run: Path) -> None:
    model: Any = bitdial.load(run)
    loader = make_loader(load_dataset("digits").test, 256, train=False)
    assert set(model.dial.weights) == {8}
    eight = JointResults.load(run / "results.json").networks[0].scores[-1]
    assert evaluate_loss_accuracy(model, loader) == (eight.loss, eight.accuracy)
    model.dial.set(2)
    assert evaluate_loss_accuracy(model, loader)[0] != eight.loss


def test_evaluate_measures_it_at_any_width(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--bits", "3", "8"]) == 0
    assert "joint, seed 0, on the 359 test images of digits" in capsys.readouterr().out


class TestDraws:
    options = JointConfig(bitwidth_options=[2, 4, 8], joint_quantization_batch_size=3)

    def test_a_width_for_each_layer_and_pass_of_those_offered(self) -> None:
        drawn = draws(self.options, 5, seed=0)
        seen = [width for step in range(40) for widths in drawn(step) for width in widths]
        assert (len(drawn(0)), len(drawn(0)[0]), set(seen)) == (3, 5, {2, 4, 8})
        assert all(abs(seen.count(width) / len(seen) - 1 / 3) < 0.08 for width in (2, 4, 8))

    def test_the_same_again_and_another_for_another_seed(self) -> None:
        one, again, other = (draws(self.options, 5, seed=seed) for seed in (0, 0, 1))
        assert [one(step) for step in range(9)] == [again(step) for step in range(9)]
        assert [one(step) for step in range(9)] != [other(step) for step in range(9)]
        assert one(0) != one(1)


def test_losses_and_cost_are_those_of_the_passes_by_hand() -> None:
    """One step: the gradient is the mean of those at each pass's widths."""
    torch.manual_seed(0)
    model = quantize(build_model("mlp", num_classes=10, in_channels=1, image_size=8), skip=())
    dial, batch = BitDial(model), (torch.randn(6, 1, 8, 8), torch.arange(6))
    widths = [(2.0, 8.0, 4.0), (8.0, 4.0, 2.0)]
    task = InPasses(Classification(), dial, widths)
    ours = [(item, task.loss(model, item)) for item in task.passes(batch)]
    plain = []
    for each in widths:
        dial.set(list(each))
        plain.append(Classification().loss(model, batch))
    assert [found.loss.item() for _, found in ours] == [found.loss.item() for found in plain]
    assert plain[0].loss != plain[1].loss
    ledger = cost(model, batch[0][:1])
    assert ledger.step_bitops(widths[0], widths[0]).total != ledger.step_bitops(widths[1], widths[1]).total


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--bitwidth_options 0 4", "--bitwidth_options"),
        ("--joint_quantization_batch_size 0", "--joint_quantization_batch_size"),
        ("--quantizer twn", "'uniform', 'dorefa'"),
        ("--skip_layers conv9", "layer pattern must match"),
        ("--model resnet21", "did you mean 'resnet"),
        ("--epochs 2", "exclude each other"),
        ("--bitwidth_option 4", "did you mean '--bitwidth_options'?"),
        ("research", "expected a flag, got 'research'"),
    ],
)
def test_one_sentence(
    flags: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(flags)
    rest = [] if "--model" in words else ["--model", "tiny_cnn"]
    assert main(["train", "joint", *words, *rest, "--steps", "4"]) == 2
    text = capsys.readouterr().err
    assert sentence in text
    assert text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
