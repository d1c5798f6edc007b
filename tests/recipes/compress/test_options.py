"""What can be set in a run of codec training: as people type it, and what is refused."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bitdial.cli import main
from bitdial.compression.models import HPCM
from bitdial.configuration import load_config
from bitdial.recipes.compress.options import CompressConfig
from bitdial.recipes.compress.recipe import arms
from bitdial.recipes.compress.train import begin_with
from bitdial.recipes.compress.work import work_of


def read(words: str) -> CompressConfig:
    return load_config(CompressConfig, {}, shlex.split(words), prog="bitdial train compress", recipe="compress")


class TestNames:
    def test_flags_of_other_programs_for_codecs(self) -> None:
        words = (
            "--model_name scale_hyperprior --train_dataset a --test_dataset b --learning-rate .002 --num-workers 2 "
            "--lambda .013 --batch-size 4 --patch-size 256 256 --save_path out --clip_max_norm 2 --use_balanced "
            "--gamma .006 --gamma_final .002 --w_lr .03 --adaptive_gamma --gamma_strategy step --step_epochs 10 20 "
            "--adaptive_window 20 --adaptive_threshold .02 --epochs 30 --checkpoint c.pt --finetune --finetune_lr 2e-5"
        )
        options = read(words)
        assert (options.model, options.data_path, options.test_path) == ("scale_hyperprior", Path("a"), Path("b"))
        assert (options.lr, options.workers, options.lambda_value, options.batch_size) == (0.002, 2, 0.013, 4)
        assert (options.crop, options.run_dir, options.max_grad_norm) == (256, Path("out"), 2)
        assert (options.gamma, options.gamma_final, options.w_lr, options.step_epochs) == (0.006, 0.002, 0.03, [10, 20])
        assert (options.epochs, options.steps, options.rate) == (30, None, 2e-5)

    def test_a_file_may_name_lambda_as_it_is_called(self, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text("lambda: .025\nlambdas: [.01, .02]\nmodel_options: {channels: 16}\n")
        options = read(f"--config {tmp_path / 'c.yaml'}")
        assert (options.lambda_value, options.lambdas, options.model_options.channels) == (0.025, [0.01, 0.02], 16)

    def test_large_networks_learn_more_slowly(self) -> None:
        assert [read(f"--model {name}").lr for name in ("hpcm_tiny", "hpcm_base")] == [1e-3, 1e-4]
        assert read("--model hpcm_large --lr .01").lr == 0.01


class TestWarmUp:
    def test_is_half_of_a_run_from_new_weights(self) -> None:
        assert read("").warm_up(600, from_scratch=True) == 300
        assert read("").warm_up(600, from_scratch=False) == 0
        assert read("--checkpoint a.pt").warm_up(600, from_scratch=True) == 0
        assert read("--warmup_steps 7").warm_up(600, from_scratch=False) == 7


def test_each_lambda_goes_on_from_the_next_larger_one() -> None:
    made = arms(read("--lambdas .0067 .025 .013"))
    assert [(arm.name, arm.starts_from, arm.options.lambda_value) for arm in made] == [
        ("lambda_0.025", None, 0.025),
        ("lambda_0.013", "lambda_0.025", 0.013),
        ("lambda_0.0067", "lambda_0.013", 0.0067),
    ]
    assert [arm.name for arm in arms(read(""))] == ["codec"]


@pytest.mark.parametrize(
    ("words", "told"),
    {
        "--lambda 0": "lambda",
        "--lambda -1": "lambda",
        "--lambda nan": "lambda",
        "--lambdas .01 0": "lambdas",
        "--lambdas .01 .01": "lambdas must be different, got 0.01 twice",
        "--model hyperprio": "did you mean 'scale_hyperprior'",
        "--model resnet20": "model must be one of the codecs, got 'resnet20'; there are: factorized",
        "--model hpcm_tiny --model_options.channels 8": "channels is no option of hpcm_tiny",
        "--model_options.attention": "attention is no option of mean_scale_hyperprior",
        "--model_options.channels 6": "channels",
        "--crop 8": "crop",
        "--crop 0": "crop",
        "--patch-size 256 128": "crop must be the side of a square, got 256 x 128",
        "--finetune": "expected --checkpoint to name it",
        "--test_path x": "test_path goes with data_path",
        "--step_epochs 3": "step_epochs belong to gamma_strategy step, got cosine",
        "--gamma_strategy hcpm": "gamma_strategy",
        "--gamma -1": "gamma",
        "--w_lr 0": "w_lr",
        "--use_balancd": "did you mean '--use_balanced'",
        "--test_share 1": "test_share",
        "--epochs 2 --steps 3": "epochs",
        "--dataset digits": "unknown flag --dataset",
    }.items(),
)
def test_bad_options_get_one_sentence(
    words: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "compress", *shlex.split(words)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not any(tmp_path.iterdir())


class TestPictures:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "data").mkdir()
        for number in range(5):
            Image.new("RGB", (20 + number, 10), (number, 0, 0)).save(tmp_path / "data" / f"{number}.png")
        return tmp_path / "data"

    def test_the_two_photographs_are_divided_by_columns(self) -> None:
        work = work_of(CompressConfig())
        assert [each.shape for each in work.train] == [(3, 427, 384)] * 2
        assert [each.shape for each in work.test] == [(3, 427, 256)] * 2
        assert len(work.loaders(0).train) == 20
        assert "left 384 columns of the two photographs" in work.told()

    def test_a_share_of_a_folder_is_held_out(self, folder: Path) -> None:
        work = work_of(CompressConfig(data_path=folder, test_share=0.4))
        assert (len(work.train), len(work.test)) == (3, 2)
        assert work.told() == "data, 3 pictures to train on and 2 pictures to measure with"
        assert set(work.identify().examples()) == {f"{number}.png" for number in range(5)}

    def test_a_folder_of_its_own_to_measure_with(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "kodak").mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / "kodak" / "0.png")
        work = work_of(CompressConfig(data_path=folder, test_path=tmp_path / "kodak"))
        assert (len(work.train), work.test.names) == (5, ("test/0.png",))

    @pytest.mark.parametrize("place", ["nothing", "empty", "text", "single", "same"])
    def test_other_folders_are_refused(
        self, folder: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("empty", "text", "single"):
            (tmp_path / name).mkdir()
        (tmp_path / "text" / "a.png").write_text("no picture")
        Image.new("RGB", (9, 9)).save(tmp_path / "single" / "0.png")
        words = {"same": f"--data_path {folder} --test_path {folder}"}.get(place, f"--data_path {tmp_path / place}")
        assert main(["train", "compress", *shlex.split(words), "--run_dir", str(tmp_path / "run")]) == 2
        told = {
            "nothing": "got nothing",
            "empty": "got none",
            "text": "cannot read the image",
            "single": "at least two",
            "same": "must be another folder",
        }[place]
        assert told in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        "given", [{"data": 3}, {"data": ([], [])}, {"data": ([torch.zeros(3, 4, 4)],) * 2}, {"task": 1}, {"model": 3}]
    )
    def test_what_a_script_brings_is_checked(self, given: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"must be|leave task out"):
            work_of(CompressConfig(), **given)


def test_a_missing_coder_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    assert main(["train", "compress", "--run_dir", str(tmp_path / "run")]) == 2
    assert "pip install 'bitdial[compression]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class TestWeights:
    def test_files_without_adaptive_vectors_are_taken_and_this_is_said(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model, other = HPCM("tiny"), HPCM("tiny")
        with torch.no_grad():
            other.adaptive_params_list[3].fill_(2.0)
        state = {f"module.{name}": value for name, value in model.state_dict().items() if "adaptive" not in name}
        torch.save(state, tmp_path / "released.pt")
        (told,) = begin_with(other, tmp_path / "released.pt")
        assert "lacks the adaptive vectors" in told
        name = next(iter(model.g_a.state_dict()))
        assert torch.equal(other.g_a.state_dict()[name], model.g_a.state_dict()[name])
        assert set(other.adaptive_params_list[3].flatten().tolist()) == {2.0}

    def test_anything_else_that_lacks_is_refused(self, tmp_path: Path) -> None:
        model = HPCM("tiny")
        state = model.state_dict()
        for lacking in ("adaptive_params_list.3", next(name for name in state if name.startswith("g_a"))):
            torch.save({name: value for name, value in state.items() if name != lacking}, tmp_path / "some.pt")
            with pytest.raises(ValueError, match=f"does not fit the network: .*{lacking}"):
                begin_with(model, tmp_path / "some.pt")
