"""Recipes from Python: `run` and `load`, one's own network and data, files of earlier versions."""

from __future__ import annotations

import copy
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import bitdial
from bitdial.cli import main
from bitdial.errors import BitdialError
from bitdial.models import build_model
from bitdial.recipes import recipe_of
from bitdial.recipes.cyclic import CyclicResults
from bitdial.recipes.cyclic.answer import answer_of
from bitdial.recipes.saved_model import load_saved
from bitdial.recipes.ternary import TernaryConfig, TernaryResults, load_trained
from bitdial.training import Classification, CsvLog, TaskOutput
from tests.recipes.ternary.tiny import stopped_before

TINY: dict[str, Any] = {
    "steps": 6,
    "num_static_iterations": 3,
    "warmup_steps": 1,
    "cyclic": {"cycle_length": 5},
    "static": {"test_configurations": {"4bit": 4}},
    "model_options": {"bit_widths": [4, 8]},
}
TERNARY: dict[str, Any] = {"epochs": 1, "warmup_epochs": 0, "batch_size": 256}


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


class Shared(nn.Module):
    """A layer that is called on inputs of unlike scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.out = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.out(self.head(x) + self.head(50 * x))


def tensors(count: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, 8, generator=generator)
    return inputs, (inputs @ torch.randn(8, 4, generator=torch.Generator().manual_seed(4))).argmax(1)


class TopTwo(Classification):
    """A metric more: whether the label is among the two largest logits."""

    def score(self, model: nn.Module, batch: Any) -> tuple[dict[str, Tensor], int]:
        sums, count = super().score(model, batch)
        near = (self.logits(model, batch).topk(2).indices == batch[1][:, None]).any(dim=1)
        return {**sums, "top2": near.sum()}, count


class Regression:
    """Numbers instead of labels."""

    metric, higher_is_better = "mae", False

    def examples(self, batch: Any) -> int:
        return len(batch[0])

    def logits(self, model: nn.Module, batch: Any) -> Tensor:
        output: Tensor = model(batch[0])
        return output

    def loss_of(self, logits: Tensor, batch: Any) -> TaskOutput:
        return TaskOutput(functional.mse_loss(logits, batch[1]), len(batch[0]))

    def loss(self, model: nn.Module, batch: Any) -> TaskOutput:
        return self.loss_of(self.logits(model, batch), batch)

    @torch.no_grad()
    def score(self, model: nn.Module, batch: Any) -> tuple[dict[str, Tensor], int]:
        error = self.logits(model, batch) - batch[1]
        return {"loss": error.square().sum(), "mae": error.abs().sum()}, len(batch[0])


def regressor() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))


@pytest.fixture(scope="module")
def cyclic(tmp_path_factory: pytest.TempPathFactory) -> tuple[CyclicResults, Path]:
    folder = tmp_path_factory.mktemp("api") / "cyclic"
    results = bitdial.run("cyclic", model="tiny_cnn", run_dir=folder, **TINY)
    assert isinstance(results, CyclicResults)
    return results, folder


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> tuple[TernaryResults, Path]:
    folder = tmp_path_factory.mktemp("api") / "ternary"
    results = bitdial.run("ternary", model="mlp", run_dir=folder, ema_decay=0.9, **TERNARY)
    assert isinstance(results, TernaryResults)
    return results, folder


class TestRun:
    def test_results_are_those_of_the_file_and_shown_as_the_table(self, cyclic: tuple[CyclicResults, Path]) -> None:
        results, folder = cyclic
        loaded = CyclicResults.load(folder / "results.json")
        assert (loaded.arms, loaded.comparison) == (results.arms, results.comparison)
        assert "matched_cost" in repr(results)
        assert answer_of(results.arms, results.comparison).headline in repr(results)
        assert str(results) == repr(results)
        assert results._repr_html_().startswith("<pre style=")  # what a notebook shows
        assert "matched_cost" in results._repr_html_()
        assert results.command.startswith("bitdial.run('cyclic', ")
        assert f"run_dir={str(folder)!r}" in results.command  # a path as text: what is shown can be run

    def test_the_command_line_gives_the_same_numbers(self, cyclic: tuple[CyclicResults, Path], tmp_path: Path) -> None:
        results, folder = cyclic
        assert main(["train", "cyclic", "--config", str(folder / "config.yaml"), "--run_dir", str(tmp_path / "r")]) == 0
        again = CyclicResults.load(tmp_path / "r" / "results.json")
        assert [arm.scores for arm in again.arms] == [arm.scores for arm in results.arms]

    @pytest.mark.parametrize("own", [network, network()], ids=["function", "module"])
    def test_ones_own_network_and_tensors(self, own: Any, tmp_path: Path) -> None:
        before = copy.deepcopy(own.state_dict()) if isinstance(own, nn.Module) else {}
        results = bitdial.run("cyclic", model=own, data=(tensors(), tensors(60)), run_dir=tmp_path / "r", **TINY)
        assert results.command.startswith("bitdial.run('cyclic', model=..., data=..., run_dir='")
        assert isinstance(results, CyclicResults)
        assert {arm.name for arm in results.arms} == {"baseline_fp32", "cpt", "static_4bit", "matched_cost"}
        if isinstance(own, nn.Module):  # each arm trains a copy
            assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
        with pytest.raises(BitdialError, match="brought by a script"):
            bitdial.load(tmp_path / "r")
        assert bitdial.load(tmp_path / "r", model=network()).dial is not None
        assert main(["train", "cyclic", "--resume", str(tmp_path / "r"), "--seeds", "2"]) == 2

    def test_a_dataset_and_loaders(self, tmp_path: Path) -> None:
        whole = TensorDataset(*tensors())
        given = (DataLoader(whole, 32, shuffle=True, generator=torch.Generator().manual_seed(0)), DataLoader(whole, 64))
        for number, data in enumerate([(whole, whole), given]):
            results = bitdial.run("joint", model=network, data=data, steps=6, run_dir=tmp_path / str(number))
            assert any("data of a script" in note for note in results.notes)

    def test_a_layer_on_inputs_of_unlike_scale_is_told_in_the_report(self, tmp_path: Path) -> None:
        results = bitdial.run("joint", model=Shared, data=(tensors(), tensors(60)), steps=4, run_dir=tmp_path / "r")
        (note,) = [note for note in results.notes if "times the range of another" in note]
        assert note.startswith('Layer "head" is called on inputs')
        assert "times the range of another" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")

    @pytest.mark.parametrize("recipe", ["cyclic", "ternary", "joint"])
    def test_what_a_task_scores_is_logged_and_reported_by_every_recipe(self, recipe: str, tmp_path: Path) -> None:
        options = {"cyclic": {**TINY, "eval_interval": 3}, "ternary": {**TERNARY, "keep_best": 1}}.get(
            recipe, {"steps": 6}
        )
        data: Any = (TensorDataset(*tensors()), TensorDataset(*tensors(60)))
        if recipe == "ternary":  # holds some out
            images = torch.randint(0, 256, (120, 1, 8, 8), dtype=torch.uint8)
            data = ((images, torch.arange(120) % 10),) * 2
        own: dict[str, Any] = {"model": "mlp"} if recipe == "ternary" else {"model": network}
        results: Any = bitdial.run(recipe, data=data, task=TopTwo(), run_dir=tmp_path / "r", **own, **options)
        reread = type(results).load(tmp_path / "r" / "results.json")
        for record in reread.records:
            for score in [record.test, record.validation] if recipe == "ternary" else record.scores:
                assert score.accuracy <= score.metrics["top2"] <= 1
        rows = CsvLog(tmp_path / "r" / "metrics.csv").rows()
        if recipe != "joint":  # which measures at its end
            assert any(0 < float(row.get("val_top2") or 0) <= 1 for row in rows)

    @pytest.mark.parametrize("recipe", ["cyclic", "ternary", "joint"])
    def test_a_task_without_an_accuracy_is_trained_and_reported(self, recipe: str, tmp_path: Path) -> None:
        options = {"cyclic": TINY, "ternary": {**TERNARY, "keep_best": 0, "validation_fraction": 0}}
        inputs, _ = tensors()
        data = ((inputs, inputs.mean(1, keepdim=True)), (inputs, inputs.mean(1, keepdim=True)))
        named: dict[str, Any] = {"model": regressor, "data": data, "task": Regression(), "run_dir": tmp_path / "r"}
        results: Any = bitdial.run(recipe, **named, **options.get(recipe, {"steps": 6}))
        for record in results.records:
            for score in [record.test] if recipe == "ternary" else record.scores:
                assert math.isnan(score.accuracy)
                assert score.metrics["mae"] > 0
        assert repr(results)
        assert (tmp_path / "r" / "report.html").exists()

    def test_smoothed_labels_are_of_classification(self, tmp_path: Path) -> None:
        with pytest.raises(BitdialError, match="label_smoothing belongs to classification"):
            bitdial.run("ternary", model="mlp", task=TopTwo(), label_smoothing=0.1, run_dir=tmp_path / "r", **TERNARY)
        assert not (tmp_path / "r").exists()

    def test_images_as_tensors_for_a_network_by_name(self, tmp_path: Path) -> None:
        images, labels = torch.randint(0, 256, (120, 1, 8, 8), dtype=torch.uint8), torch.arange(120) % 10
        data = ((images, labels), (images, labels))
        results = bitdial.run("ternary", model="mlp", data=data, run_dir=tmp_path / "r", **TERNARY)
        assert "tensors of a script" in results.notes[0]
        assert bitdial.load(tmp_path / "r").dial.names == ("fc2",)

    def test_interrupted_it_goes_on(self, tmp_path: Path) -> None:
        named: dict[str, Any] = {"model": network, "data": (tensors(), tensors(60)), "run_dir": tmp_path / "r", **TINY}
        whole = bitdial.run("cyclic", **{**named, "run_dir": tmp_path / "whole"})
        with stopped_before(4), pytest.raises(BitdialError, match="go on"):
            bitdial.run("cyclic", **named)
        parts = bitdial.run("cyclic", resume=True, **named)
        assert isinstance(whole, CyclicResults)
        assert isinstance(parts, CyclicResults)
        assert [arm.scores for arm in whole.arms] == [arm.scores for arm in parts.arms]

    @pytest.mark.parametrize(
        ("named", "sentence"),
        [
            ({"epochz": 3}, "argument: unknown setting 'epochz'; did you mean 'epochs'?"),
            ({"cyclic": {"cycle_lenght": 3}}, "did you mean 'cyclic.cycle_length'?"),
            ({"cyclic": 3}, "expected settings of this group"),
            ({"lr": "fast"}, "lr: expected a number, got 'fast'"),
            ({"preset": "agressive"}, "did you mean 'aggressive'?"),
            ({"model": 3}, "model must be a network's name"),
            ({"model": network, "data": 3}, "data must be"),
            ({"model": network, "data": (tensors(),)}, "data must be"),
            ({"model": network, "data": (tensors(), 3)}, "test must be a pair of tensors"),
            ({"model": network, "data": (iter([]), tensors())}, "again and again"),
            ({"model": network, "data": ((tensors()[0], tensors(5)[1]), tensors())}, "one label for each input"),
            ({"data": (tensors(), tensors())}, "a network by name needs data as tensors"),
            ({"model": lambda: 3, "data": (tensors(), tensors())}, "function that makes one"),
            ({"model": "resnet21"}, "did you mean 'resnet"),
            ({"config": "nowhere.yaml"}, "does not exist"),
        ],
    )
    def test_what_is_wrong_is_one_sentence_and_leaves_nothing(
        self, named: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(BitdialError) as caught:
            bitdial.run("cyclic", **{"steps": 4, **named})
        assert sentence in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_recipe_that_does_not_exist(self) -> None:
        with pytest.raises(BitdialError, match="did you mean 'ternary'"):
            bitdial.run("ternery")

    def test_ternary_needs_data_that_can_be_divided(self, tmp_path: Path) -> None:
        loader = [tensors(64)]
        with pytest.raises(BitdialError, match="held out"):
            bitdial.run("ternary", model=network, data=(loader, loader), run_dir=tmp_path / "r", **TERNARY)
        named = {**TERNARY, "validation_fraction": 0, "keep_best": 0}
        assert bitdial.run("ternary", model=network, data=(loader, loader), run_dir=tmp_path / "r", **named).records


class TestEvaluate:
    def test_the_recommended_arm_where_it_ships(
        self, cyclic: tuple[CyclicResults, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        results, folder = cyclic
        chosen = results.comparison.chosen
        assert main(["evaluate", str(folder)]) == 0
        first, *table = capsys.readouterr().out.splitlines()
        assert first.startswith(f"{chosen.arm}, seed 0 (recommended), on ")
        rows = {row.split()[0]: row.split()[1] for row in table if "%" in row}
        assert rows[f"{chosen.bits:g}"] == f"{chosen.accuracy.mean:.2%}"
        assert {"2", "4", "8", "16", "32"} <= rows.keys()
        assert main(["evaluate", str(folder), "--arm", "baseline_fp32", "--bits", "32"]) == 0
        assert capsys.readouterr().out.startswith("baseline_fp32, seed 0, on ")

    def test_a_ternary_run_as_it_ships(
        self, ternary: tuple[TernaryResults, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        results, folder = ternary
        assert main(["evaluate", str(folder)]) == 0
        assert f"{results.networks[0].test.accuracy:.2%}" in capsys.readouterr().out


class TestLoad:
    def test_what_a_cyclic_run_left(self, cyclic: tuple[CyclicResults, Path]) -> None:
        _, folder = cyclic
        shipped = [bitdial.load(path) for path in (folder, folder / "cyclic_best_model.pt", str(folder))]
        assert all(not model.training and model.dial.weights == shipped[0].dial.weights for model in shipped)
        arm = bitdial.load(folder, arm="cpt")
        checkpoint = bitdial.load(next((folder / "checkpoints" / "cpt-seed0").glob("*.pt")))
        x = torch.randn(3, 1, 8, 8)
        assert torch.equal(arm(x), checkpoint(x))

    def test_what_a_ternary_run_left(self, ternary: tuple[TernaryResults, Path]) -> None:
        results, folder = ternary
        x = torch.randn(3, 1, 8, 8)
        wanted = bitdial.load(folder)(x)
        for path in (folder / results.networks[0].file, folder / (results.networks[0].packed_file or "")):
            assert torch.equal(bitdial.load(path)(x), wanted)
        for place in (folder, str(folder), str(folder / results.networks[0].file)):
            assert torch.equal(load_trained(place)[1](x), wanted)
        for name in ("best.pt", "last.pt"):  # the only epoch is the best one
            assert torch.equal(bitdial.load(folder / "checkpoints" / name)(x), wanted)

    def test_a_packed_file_of_an_earlier_version_takes_the_network_beside_it(
        self, ternary: tuple[TernaryResults, Path], tmp_path: Path
    ) -> None:
        from bitdial.export import save_packed

        _, folder = ternary
        shutil.copy(folder / "models" / "ternary-seed0.pt", tmp_path / "net.pt")
        save_packed(bitdial.load(folder), tmp_path / "net.safetensors")
        x = torch.randn(3, 1, 8, 8)
        assert torch.equal(bitdial.load(tmp_path / "net.safetensors")(x), bitdial.load(folder)(x))
        (tmp_path / "net.pt").unlink()
        with pytest.raises(BitdialError, match="does not say which network"):
            bitdial.load(tmp_path / "net.safetensors")

    def test_it_draws_no_random_numbers(self, cyclic: tuple[CyclicResults, Path]) -> None:
        state = torch.get_rng_state()
        bitdial.load(cyclic[1])
        assert torch.equal(state, torch.get_rng_state())

    def test_a_float_network_has_no_dial(self, tmp_path: Path) -> None:
        bitdial.run("ternary", model="mlp", quantizer="none", run_dir=tmp_path / "r", **TERNARY)
        assert bitdial.load(tmp_path / "r").dial is None

    @pytest.mark.parametrize(
        ("path", "named", "sentence"),
        [
            ("nowhere", {}, "got nothing"),
            ("empty", {}, "no config.yaml"),
            ("text.pt", {}, "text.pt"),
            ("text.safetensors", {}, "safetensors"),
            ("run", {"arm": "ctp"}, "did you mean 'cpt'"),
            ("run", {"seed": 7}, "seed must be one"),
            ("run/cyclic_best_model.pt", {"arm": "cpt"}, "choose among those of a run"),
            ("bare.pt", {}, "does not say which network"),
        ],
    )
    def test_what_cannot_be_loaded(
        self,
        path: str,
        named: dict[str, Any],
        sentence: str,
        cyclic: tuple[CyclicResults, Path],
        tmp_path: Path,
    ) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "text.pt").write_text("no network")
        (tmp_path / "text.safetensors").write_text("no network")
        torch.save(network().state_dict(), tmp_path / "bare.pt")
        (tmp_path / "run").symlink_to(cyclic[1])
        with pytest.raises(BitdialError, match=sentence):
            bitdial.load(tmp_path / path, **named)


class TestEarlierVersions:
    """What the two recipes wrote when each had forms of its own."""

    def test_the_model_file_of_the_cyclic_recipe(self, cyclic: tuple[CyclicResults, Path], tmp_path: Path) -> None:
        described, model = load_saved(cyclic[1] / "cyclic_best_model.pt")
        options = {
            "name": "tiny_cnn", "bit_widths": [4.0, 8.0], "default_bit_width": 8.0,
            "skip_layers": ["<first>", "<last>"], "quantizer": "uniform", "granularity": None,
        }  # fmt: skip
        kept = ("arm", "seed", "num_classes", "in_channels", "image_size", "mean", "std", "class_names", "bits")
        old = {name: getattr(described, name) for name in (*kept, "skipped_layers")}
        old |= {"schema_version": 1, "model": options, "gradient_bits": 32.0, "model_state_dict": model.state_dict()}
        torch.save(old, tmp_path / "cyclic_best_model.pt")
        x = torch.randn(3, 1, 8, 8)
        assert torch.equal(bitdial.load(tmp_path / "cyclic_best_model.pt")(x), model(x))

    @pytest.mark.parametrize("quantizer", ["twn", "none"])
    def test_the_model_file_of_the_ternary_recipe(self, quantizer: str, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model = build_model("mlp", num_classes=10, in_channels=1, image_size=8)
        if quantizer != "none":
            bitdial.quantize(model, 1.58, 32, quantizer=quantizer)
        built = {
            "model": "mlp", "num_classes": 10, "in_channels": 1, "image_size": 8, "quantizer": quantizer,
            "granularity": None, "activation_bits": 32.0, "skip_layers": ["<first>", "<last>"],
        }  # fmt: skip
        old = {
            "schema_version": 1, "experiment": "a", "seed": 0, "network": built, "dataset": "digits", "mean": [0.0],
            "std": [1.0], "class_names": [], "model_state_dict": model.state_dict(),
        }  # fmt: skip
        torch.save(old, tmp_path / "a-seed0.pt")
        x = torch.randn(3, 1, 8, 8)
        assert torch.equal(bitdial.load(tmp_path / "a-seed0.pt")(x), model.eval()(x))

    def test_a_run_that_does_not_say_its_recipe(self, cyclic: tuple[CyclicResults, Path], tmp_path: Path) -> None:
        run = tmp_path / "run"
        shutil.copytree(cyclic[1], run, symlinks=True)
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config.pop("recipe") == "cyclic"
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        assert main(["evaluate", str(run), "--bits", "4"]) == 0
        assert main(["train", "cyclic", "--resume", str(run)]) == 0
        assert recipe_of(TernaryConfig().model_dump()) == "ternary"

    def test_results_that_do_not_say_their_recipe(self, cyclic: tuple[CyclicResults, Path], tmp_path: Path) -> None:
        text = (cyclic[1] / "results.json").read_text().replace('"recipe": "cyclic",\n', "")
        (tmp_path / "results.json").write_text(text)
        assert CyclicResults.load(tmp_path / "results.json").arms == cyclic[0].arms


def test_the_options_of_another_recipe_are_refused_by_name(
    ternary: tuple[TernaryResults, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = ternary[1] / "config.yaml"
    assert yaml.safe_load(config.read_text())["recipe"] == "ternary"
    assert main(["train", "cyclic", "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert f"{config}, line 1: expected options of the recipe cyclic, got those of ternary" in said
    assert main(["train", "cyclic", "--resume", str(ternary[1])]) == 2
    assert "a run of ternary; write `bitdial train ternary --resume" in capsys.readouterr().err


COMPILED: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("ternary", {**TERNARY, "validation_fraction": 0, "keep_best": 0}, {"epochs": 2}),
    ("cyclic", TINY, {"seeds": 2}),
]


@pytest.mark.parametrize(("recipe", "how", "longer"), COMPILED)
def test_a_compiled_network_of_a_script_is_trained_and_resumed(
    recipe: str, how: dict[str, Any], longer: dict[str, int], tmp_path: Path
) -> None:
    brought: dict[str, Any] = {"model": lambda: torch.compile(network(), backend="eager"), "data": (tensors(),) * 2}
    before = bitdial.run(recipe, run_dir=tmp_path / "run", **brought, **how).records
    after = bitdial.run(recipe, resume=tmp_path / "run", **brought, **longer).records
    assert len(after) == len(before) * longer.get("seeds", 1)
    assert sum(record.steps_taken for record in after) == 2 * sum(record.steps_taken for record in before)


def test_another_network_than_that_of_the_run_is_refused(tmp_path: Path) -> None:
    data = (tensors(), tensors())
    bitdial.run("cyclic", run_dir=tmp_path / "run", model=network, data=data, **TINY)
    other = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    with pytest.raises(
        BitdialError, match=r"checkpoints in .* do not fit the network: .*; give the model and the data"
    ):
        bitdial.run("cyclic", resume=tmp_path / "run", seeds=2, model=other, data=data)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(list(zip(*tensors(), strict=True)))


def test_a_stream_of_examples_has_no_length(tmp_path: Path) -> None:
    how: dict[str, Any] = {"model": network, "data": (Stream(), tensors()), "batch_size": 50}
    joint: dict[str, Any] = {"warmup_steps": 0, "bitwidth_options": [4, 32], "run_dir": tmp_path / "run"}
    with pytest.raises(BitdialError, match=r"epochs of a loader without a length .*; give steps instead"):
        bitdial.run("joint", epochs=1, **how, **joint)
    with pytest.raises(BitdialError, match=r"counts in epochs, .* got a loader without a length; give it a __len__"):
        bitdial.run("ternary", validation_fraction=0, keep_best=0, run_dir=tmp_path / "run", **how)
    notes = bitdial.run("joint", steps=5, **how, **joint).notes
    assert "The data of the part train comes from the script: whether it changes cannot be checked." in notes


def test_a_quantizer_that_was_registered_can_be_chosen_in_every_recipe() -> None:
    script = """
from bitdial.numerics import TERNARY_BITS
from bitdial.numerics.quantizers import Quantizer, register
from bitdial.numerics.weights import twn_weight, uniform_weight
register(Quantizer("mine", uniform_weight, "channel"))
register(Quantizer("three", twn_weight, "channel", fixed_bits=TERNARY_BITS))
from bitdial.recipes.cyclic.options import ModelOptions
from bitdial.recipes.joint.options import JointConfig
from bitdial.recipes.ternary.options import TernaryConfig
print(ModelOptions(quantizer="mine").quantizer)
print(JointConfig(quantizer="mine").quantizer)
print(TernaryConfig(quantizer="three").quantizer)
ModelOptions(quantizer="three")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["mine", "mine", "three"]
    choices = re.search(r"'uniform', 'dorefa', .* or 'mine'", done.stderr)
    assert choices is not None
    assert "three" not in choices.group()
