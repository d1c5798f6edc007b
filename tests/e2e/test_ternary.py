"""``bitdial train ternary`` and ``bitdial export`` from the command line: what they leave, and what they say."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bitdial.cli import main
from bitdial.evaluation import evaluate_loss_accuracy
from bitdial.export import load_packed
from bitdial.recipes.saved_model import load_saved
from bitdial.recipes.ternary import TernaryConfig, TernaryResults
from bitdial.recipes.ternary.answer import answer_of
from bitdial.recipes.work import ImageWork
from tests.recipes.ternary.tiny import train

LENGTH = "--epochs 2 --warmup_epochs .5"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ternary run of two epochs."""
    path = tmp_path_factory.mktemp("ternary") / "run"
    assert (
        train(f"{LENGTH} --cutmix --label-smoothing .1 --csv_log {path.parent / 'logs' / 'copy.csv'} --run-dir {path}")
        == 0
    )
    return path


@pytest.fixture(scope="module")
def float_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unquantized network, with the same recipe."""
    path = tmp_path_factory.mktemp("float") / "run"
    assert train(f"{LENGTH} --quantizer none --run_dir {path}") == 0
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


class TestWhatARunLeaves:
    def test_files(self, run: Path) -> None:
        names = {path.name for path in run.iterdir()}
        assert {
            "config.yaml",
            "metrics.csv",
            "layers.csv",
            "checkpoints",
            "plots",
            "models",
            "results.json",
            "report.html",
        } <= names
        assert any(name.startswith("events.out.tfevents") for name in names)
        assert {path.name for path in (run / "plots").iterdir()} == {
            "accuracy.png", "confusion.png", "training.png", "zeros.png",
        }  # fmt: skip

    def test_the_log_has_every_metric_of_every_epoch(self, run: Path) -> None:
        log = rows(run / "metrics.csv")
        ends = [row for row in log if row["train_loss_epoch"]]
        assert [row["epoch"] for row in ends] == ["1", "2"]
        for row in ends:
            for column in (
                "learning_rate", "train_loss_epoch", "train_accuracy_epoch", "val_loss", "val_accuracy",
                "val_best_accuracy",
            ):  # fmt: skip
                assert row[column] != "", column
        assert [float(row["val_best_accuracy"]) for row in ends] == [
            max(float(row["val_accuracy"]) for row in ends[: n + 1]) for n in range(2)
        ]
        assert all(row["train_loss"] for row in log)  # and per batch, every second one here
        assert {"2", "4", "5", "6", "8", "10"} == {row["step"] for row in log}

    def test_the_copy_of_the_log(self, run: Path) -> None:
        assert rows(run.parent / "logs" / "copy.csv") == rows(run / "metrics.csv")

    def test_tensorboard(self, run: Path) -> None:
        events = EventAccumulator(str(run))
        events.Reload()
        tags = set(events.Tags()["scalars"])
        assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/best_accuracy"} <= tags
        assert {"learning_rate", "zeros/fc2", "flips/fc2"} <= tags

    def test_results_are_strict_json_and_read_back(self, run: Path) -> None:
        json.loads((run / "results.json").read_text(), parse_constant=pytest.fail)
        results = TernaryResults.load(run / "results.json")
        (network,) = results.networks
        assert (network.quantizer, network.epochs, network.steps) == ("twn", 2, 10)
        assert network.unquantized == {"fc1": "skipped as <first>", "fc": "skipped as <last>"}
        assert network.curve.epoch == [1, 2]
        assert 0 < network.zeros["fc2"] < 1
        assert "--cutmix --label-smoothing .1" in results.command
        assert results.reference is None

    def test_the_test_score_is_that_of_the_network_on_disk(self, run: Path) -> None:
        network = TernaryResults.load(run / "results.json").networks[0]
        _, model = load_saved(run / network.file)
        work = ImageWork.of(TernaryConfig())
        assert work.validation is not None
        assert len(work.train) + len(work.validation) == len(work.dataset.train)
        loaders = work.loaders(0)
        for batches, score in ((loaders.test, network.test), (loaders.validation, network.validation)):
            assert batches is not None
            assert score is not None
            loss, accuracy = evaluate_loss_accuracy(model, batches)
            assert (score.accuracy, score.loss) == (accuracy, pytest.approx(loss))

    def test_the_best_by_validation_is_shipped(self, run: Path) -> None:
        network = TernaryResults.load(run / "results.json").networks[0]
        scores = network.curve.validation_accuracy
        assert network.shipped == "best"
        assert network.validation is not None
        assert network.validation.accuracy == max(score for score in scores if score is not None)
        assert scores[network.shipped_epoch - 1] == network.validation.accuracy

    def test_the_weights_are_ternary_and_the_packed_file_holds_them(self, run: Path) -> None:
        network = TernaryResults.load(run / "results.json").networks[0]
        description, model = load_saved(run / network.file)
        weight = model.get_submodule("fc2").quantized_weight()
        assert all(len(row.unique()) <= 3 for row in weight)
        assert network.packed_file is not None
        other = load_packed(run / network.packed_file, description.build()).eval()
        x = torch.randn(5, 1, 8, 8)
        assert torch.equal(model(x), other(x))
        assert network.sizes is not None
        assert (run / network.packed_file).stat().st_size == network.sizes.file < network.sizes.float32

    def test_the_report_stands_alone(self, run: Path) -> None:
        page = (run / "report.html").read_text()
        assert "<script src" not in page
        assert "http" not in page.split("<main>")[1]
        assert page.count("<svg") == 4
        assert "test images were looked at once, at the end" in page


def test_nothing_is_held_out_where_nothing_is_chosen(tmp_path: Path) -> None:
    assert train(f"--epochs 1 --validation_fraction 0 --run_dir {tmp_path / 'run'}") == 0
    results = TernaryResults.load(tmp_path / "run" / "results.json")
    network = results.networks[0]
    assert (network.shipped, network.validation) == ("last", None)
    assert network.test == network.test_last
    assert "Nothing was chosen by any score" in results.notes[0]
    assert "val_accuracy" not in rows(tmp_path / "run" / "metrics.csv")[-1]


def test_the_unquantized_network(float_run: Path) -> None:
    network = TernaryResults.load(float_run / "results.json").networks[0]
    assert (network.experiment, network.quantizer) == ("float", "none")
    assert (network.sizes, network.packed_file, network.zeros) == (None, None, {})
    assert not (float_run / "layers.csv").exists()


@pytest.mark.parametrize(
    "flags",
    [
        "--randaugment --scheduler step --optimizer adamw",
        "--trivialaugment --scheduler onecycle --quantizer absmean",
        "--scheduler none --nesterov --quantizer ternary_lsq --activation_bits 2 --ema_decay .9",
        "--optimizer muon --gradient_accumulation_steps 2 --max_grad_norm 1 --monitor loss --early_stopping",
        "--steps 3 --no_standard_augmentation --precision bfloat16",
    ],
)
def test_choices_that_go_together(flags: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    length = "" if "--steps" in flags else "--epochs 1"
    run = tmp_path / "run"
    assert train(f"{length} {flags} --run_dir {run}") == 0
    assert f"run folder: {run}\n" in capsys.readouterr().err
    narrow = "bfloat16" in flags
    computes = "Training computes in bfloat16, scores in" if narrow else "Training and scores compute in"
    notes = TernaryResults.load(run / "results.json").notes
    assert f"{computes} float32, on ternary values; only files are packed." in notes


def test_learning_from_a_float_run(float_run: Path, tmp_path: Path) -> None:
    assert train(f"{LENGTH} --teacher {float_run} --run_dir {tmp_path / 'run'}") == 0
    log = rows(tmp_path / "run" / "metrics.csv")
    assert all(float(row["train_distillation_loss"]) > 0 for row in log)
    assert TernaryResults.load(tmp_path / "run" / "results.json").networks[0].teacher == str(float_run)


def test_several_experiments_and_seeds_in_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiments = "'{float: {quantizer: none}, twn: {}, ttq: {quantizer: ttq}}'"
    assert train(f"--epochs 1 --seeds 2 --experiments {experiments} --run_dir {tmp_path / 'run'}") == 0
    text = capsys.readouterr().out
    assert "float" in text
    assert "twn" in text
    results = TernaryResults.load(tmp_path / "run" / "results.json")
    assert results.reference == "float"
    assert [row.experiment for row in results.summaries] == ["float", "twn", "ttq"]
    accuracy = {(n.experiment, n.seed): n.test.accuracy for n in results.networks}
    for row in results.summaries[1:]:
        assert row.difference is not None
        mean = sum(accuracy[row.experiment, seed] - accuracy["float", seed] for seed in (0, 1)) / 2
        assert row.difference.mean == pytest.approx(mean)
        assert row.difference.n == 2
    assert {row["experiment"] for row in rows(tmp_path / "run" / "metrics.csv")} == {"float", "twn", "ttq"}
    assert len(list((tmp_path / "run" / "models").glob("*.pt"))) == 6
    found = TernaryResults.load(tmp_path / "run" / "results.json")
    assert found.winner in ("twn", "ttq")
    assert answer_of(found).headline in text
    assert found.sentence in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for end in ("pt", "safetensors"):  # what ships of the winner, under one name
        model = tmp_path / "run" / "models" / f"{found.winner}-seed0.{end}"
        assert (tmp_path / "run" / f"ternary_best_model.{end}").read_bytes() == model.read_bytes()
    assert main(["export", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "ternary_best_model-base3.safetensors").is_file()


class TestOnnx:
    def test_the_file_agrees_and_says_what_it_takes(
        self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
        pytest.importorskip("onnxscript", reason="the extra export is not installed")
        output = tmp_path / "net.onnx"
        assert main(["export", str(run), "--format", "onnx", "--output", str(output)]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "Node by node it equals the network" in text
        assert "ONNX Runtime" in text
        assert "of the file." in text
        told = json.loads((tmp_path / "net.onnx.json").read_text(encoding="utf-8"))
        described, model = load_saved(run / "models" / "ternary-seed0.pt")
        assert told["classes"] == described.class_names
        assert told["input"]["mean"] == described.mean
        x = torch.randn(3, 1, 8, 8)
        session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
        assert torch.allclose(found, model(x), atol=1e-4 * model(x).abs().max().item())


class TestExport:
    @pytest.mark.parametrize("encoding", ["base3", "2bit"])
    def test_the_file_loads_back_and_is_as_large_as_is_said(
        self, encoding: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "net.safetensors"
        words = ["export", str(run), "--format", "packed", "--output", str(output), "--encoding", encoding]
        assert main(words) == 0
        text = capsys.readouterr().out
        for line in ("packed weights alone", "whole file", "memory at run time"):
            assert line in text
        assert "loads back bit for bit (outputs of 256 test images compared)" in " ".join(text.split())
        assert f"{output.stat().st_size:,}" in text
        description, model = load_saved(run / "models" / "ternary-seed0.pt")
        other = load_packed(output, description.build()).eval()
        x = torch.randn(3, 1, 8, 8)
        assert torch.equal(model(x), other(x))

    @pytest.mark.parametrize("quantizer", ["twn", "absmean", "ttq", "ternary_lsq"])
    def test_networks_of_many_layers(self, quantizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = tmp_path / "run"
        words = ["--model", "resnet20", "--steps", "1", "--warmup_epochs", "0", "--quantizer", quantizer]
        assert main(["train", "ternary", *words, "--run_dir", str(run)]) == 0
        capsys.readouterr()
        assert main(["export", str(run), "--format", "packed"]) == 0
        assert "ternary-seed0 of" in (text := capsys.readouterr().out)
        assert "packed weights alone (1.600 bits)" in text

    def test_a_file_whose_outputs_differ_is_not_said_to_load_back(
        self, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from bitdial.layers import QuantLinear

        forward = QuantLinear.forward
        passes = itertools.count()  # such as a layer that one of the two does not call
        monkeypatch.setattr(QuantLinear, "forward", lambda self, x: forward(self, x) + next(passes))
        assert main(["export", str(run)]) == 2
        assert "did not load back bit for bit, expected equal outputs" in " ".join(capsys.readouterr().err.split())

    def test_without_the_data_outputs_of_noise_are_compared(
        self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "alone.pt"
        file.write_bytes((run / "models" / "ternary-seed0.pt").read_bytes())
        assert main(["export", str(file)]) == 0
        assert "outputs of 16 images of noise, as the run's data is not at hand, compared" in " ".join(
            capsys.readouterr().out.split()
        )

    def test_by_default_it_goes_into_the_run(self, run: Path) -> None:
        assert main(["export", str(run), "--encoding", "2bit"]) == 0
        assert (run / "ternary-seed0-ternary-2bit.safetensors").is_file()
