"""Going on from a file that is no part of a run: what is taken, what is said, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.models import build_model
from bitdial.recipes.ternary import TernaryResults
from tests.recipes.ternary.tiny import resume, state_of, stopped_before, train

LENGTH = "--epochs 2 --warmup_epochs .5"


def float_network() -> nn.Module:
    torch.manual_seed(5)
    return build_model("mlp", num_classes=10, in_channels=1, image_size=8)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    torch.save(float_network().state_dict(), tmp_path / "plain.pt")
    return tmp_path / "plain.pt"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A checkpoint with only a model and an optimizer, as many programs write it."""
    model = float_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 1, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "best_accuracy": 0.2,
        "early_stopping": {"counter": 3, "best_score": 0.2, "patience": 4}, "accuracy": 7.5,
    }  # fmt: skip
    torch.save(content, tmp_path / "older.pt")
    return tmp_path / "older.pt"


def test_a_plain_state_dict_of_the_float_network(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(f"{LENGTH} --resume {plain} --run_dir {tmp_path / 'run'}") == 0
    said = capsys.readouterr().err
    assert "only the model's weights are restored" in said
    assert "momentum starts at 0" in said
    assert "no random states" in said
    assert TernaryResults.load(tmp_path / "run" / "results.json").networks[0].epochs == 2


def test_its_weights_are_the_first_ones(plain: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(f"--steps 1 --lr 1e-12 --weight_decay 0 --quantizer ttq --resume {plain} --run_dir {run}") == 0
    wanted = torch.load(plain, weights_only=True)
    got = state_of(run)["model_state_dict"]
    assert all(torch.allclose(got[name], wanted[name], atol=1e-6) for name in wanted)


def test_an_older_checkpoint(older: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    flags = f"{LENGTH} --early_stopping --early_stopping_patience 4"
    assert train(f"{flags} --resume {older} --run_dir {run}") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "0.2 of early stopping in the checkpoint is in per cent: it is taken as 0.002" in said
    state = state_of(run)
    assert state["early_stopping"]["counter"] == 0  # .2 per cent is less than a fraction of anything
    assert state["best_score"] == state["scores"]["accuracy"]
    assert "does not say at which step it was made: it is taken up after epoch 1, step 5" in said
    assert "momentum starts at 0" not in said
    network = TernaryResults.load(run / "results.json").networks[0]
    assert (network.epochs, network.steps) == (2, 10)


def test_patience_that_was_used_up_is_refused_before_anything_is_written(
    older: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--early_stopping --early_stopping_patience 3"
    assert train(f"{LENGTH} {words} --resume {older} --run_dir {tmp_path / 'run'}") == 2
    assert "has waited for 3 evaluations already" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_run_no_longer_needs_the_file(plain: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(f"{LENGTH} --resume {plain} --run_dir {whole}") == 0
    with stopped_before(3):
        assert train(f"{LENGTH} --resume {plain} --run_dir {parts}") == 130
    plain.unlink()
    assert resume(f"--resume {parts}") == 0
    one, other = state_of(whole)["model_state_dict"], state_of(parts)["model_state_dict"]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_start_from_takes_the_weights_alone(older: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train(f"{LENGTH} --start_from {older} --quantizer ternary_lsq --run_dir {run}") == 0
    assert "resume:" not in capsys.readouterr().err
    assert TernaryResults.load(run / "results.json").networks[0].steps == 10


@pytest.mark.parametrize("flag", ["--resume", "--start_from"])
def test_weights_of_another_network_are_refused_before_anything_is_written(
    flag: str, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(f"{flag} {plain} --run_dir {tmp_path / 'run'}", "--model tiny_cnn") == 2
    assert "does not fit the network" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_optimizer_of_another_is_refused(older: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(f"--resume {older} --quantizer ttq --run_dir {tmp_path / 'run'}") == 2
    assert "--start_from" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_several_networks_cannot_go_on_from_one(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(f"--seeds 2 --resume {plain} --run_dir {tmp_path / 'run'}") == 2
    assert "goes on with one network, got several" in capsys.readouterr().err


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a run, copied out of its folder."""
    folder = tmp_path_factory.mktemp("copied")
    assert train(f"--steps 3 --activation_bits 8 --quantizer twn --run_dir {folder / 'run'}") == 0
    return Path(shutil.copy(next((folder / "run" / "checkpoints").glob("*-step3.pt")), folder / "copied.pt"))


@pytest.mark.parametrize(
    ("flag", "group"),
    [
        ("--weight_decay .3", {"weight_decay": 0.3, "momentum": 0.9}),
        ("--momentum .5", {"weight_decay": 5e-4, "momentum": 0.5}),
        ("--nesterov", {"nesterov": True, "momentum": 0.9}),
    ],
)
def test_the_optimizer_is_set_as_the_options_say(
    flag: str, group: dict[str, Any], copied: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(f"--steps 4 --activation_bits 8 --quantizer twn {flag} --resume {copied} --run_dir {run}") == 0
    state = state_of(run)
    assert state["step"] == 4
    got = state["optimizer_state_dict"]["param_groups"][0]
    assert {name: got[name] for name in group} == group


def test_the_widths_are_those_of_the_options(copied: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(f"--steps 4 --activation_bits 4 --quantizer twn --resume {copied} --run_dir {run}") == 0
    assert set(state_of(run)["dial"]["activations"].values()) == {4}
    assert set(state_of(copied)["dial"]["activations"].values()) == {8}


def test_an_optimizer_of_another_class_is_refused(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = "--steps 4 --activation_bits 8 --quantizer twn --optimizer adamw"
    assert train(f"{flags} --resume {copied} --run_dir {run}") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "expected the state of AdamW, got that of SGD" in said
    assert "--start_from" in said
    assert not run.exists()
