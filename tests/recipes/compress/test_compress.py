"""Codec training through the command line: trained, interrupted, resumed, reported; its files are its own pictures."""

from __future__ import annotations

import csv
import html
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import bitdial
from bitdial.cli import main
from bitdial.compression import MeanScaleHyperprior
from bitdial.compression.pictures import read_picture
from bitdial.recipes.compress.answer import answer_of
from bitdial.recipes.compress.codecs import codec_that_wrote, newest_codec
from bitdial.recipes.compress.results import CompressResults
from tests.recipes.ternary.tiny import differences, state_of, stopped_before

SMALL = (
    "--model_options.channels 4 --model_options.latent_channels 4 --crop 32 --batch_size 2 --steps 6 --crops 4 "
    "--coded_pictures 1 --log_interval 2"
)
"""Four steps an epoch."""


def train(flags: str) -> int:
    return main(["train", "compress", *shlex.split(f"{SMALL} {flags}")])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compress") / "runs" / "one"
    assert train(f"--run_dir {folder}") == 0
    return folder


def test_what_a_run_leaves(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = CompressResults.load(run / "results.json")
    (network,) = results.networks
    assert (network.steps, network.warmup_steps, network.second_forwards) == (6, 3, 3)
    assert len(network.history.loss) == len(network.history.w) == len(network.history.gamma) == 6
    assert network.history.p[:3] == [(1.0, 1.0)] * 3
    own = network.own
    assert own is not None
    assert own.pictures == 1
    page = (run / "report.html").read_text()
    assert "An image codec" in page
    for name in ("rate_distortion", "side_by_side", "balance"):
        assert (run / "plots" / f"{name}.png").stat().st_size > 5000
    with (run / "metrics.csv").open() as file:
        columns = next(csv.reader(file))
    assert {"gamma", "w_rate", "p_distortion", "distortion", "bpp", "val_psnr", "val_loss", "skipped_steps"} <= {
        *columns
    }
    assert main(["train", "compress", "--resume", str(run)]) == 0  # finished: shown again
    text = " ".join(capsys.readouterr().out.split())
    answer = answer_of(results)
    assert f"{answer.headline} Quality {answer.quality}" in text
    assert answer.headline.endswith("there is no JPEG of that size")  # four channels give next to no bits
    assert "Quality Nearest in size: JPEG " in text
    assert html.escape(answer.headline) in page
    assert "bitdial λ 0.013" in text


def test_the_codec_of_a_run_reads_what_the_run_wrote(run: Path) -> None:
    codec = bitdial.load_codec(run)
    (file,) = (run / "pictures" / "codec-seed0").glob("*.bd")
    picture = codec.decompress(file.read_bytes())
    assert torch.equal(picture.pixels, read_picture(file.with_suffix(".png")).pixels)
    assert CompressResults.load(run / "results.json").networks[0].model_id == codec.model_id
    assert newest_codec(run.parent) == run
    assert codec_that_wrote(codec.model_id, run.parent) == run / "models" / "codec-seed0.pt"
    assert isinstance(bitdial.load(run), MeanScaleHyperprior)


def test_evaluate_writes_its_pictures_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run)]) == 0
    first, *table = capsys.readouterr().out.splitlines()
    assert first.startswith("codec, seed 0 (recommended), on the right 256 columns of the two photographs")
    own = CompressResults.load(run / "results.json").networks[0].own
    assert own is not None
    assert next(line for line in table if "bitdial" in line).split()[3:5] == [f"{own.bpp:.3f}", f"{own.psnr:.2f}"]
    assert sum("size" in line for line in table) >= 2  # other kinds of files
    assert main(["evaluate", str(run), "--bits", "4"]) == 2
    assert "bits are for networks that can be turned to other widths" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"arm": "lambda_1"}, "has no codec lambda_1"),
        ({"seed": 4}, "has no codec seed4; did you mean 'codec-seed0'"),
    ],
)
def test_other_codecs_of_a_run_are_named(run: Path, how: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        bitdial.load_codec(run, **how)


@pytest.mark.parametrize(
    "flags",
    [
        "--warmup_steps 1 --ema_decay .5 --scheduler plateau --lr_patience 1",
        pytest.param("--gamma_strategy adaptive --adaptive_window 2", marks=pytest.mark.slow),
    ],
)
def test_resumed_it_is_the_run_that_was_never_stopped(flags: str, tmp_path: Path) -> None:
    assert train(f"{flags} --run_dir {tmp_path / 'whole'}") == 0
    for step in (1, 4):
        with stopped_before(step):
            assert train(f"{flags} --run_dir {tmp_path / str(step)}") == 130
        assert main(["train", "compress", "--resume", str(tmp_path / str(step))]) == 0
        assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / str(step))) == []
        assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / str(step) / "metrics.csv").read_bytes()


@pytest.mark.parametrize(
    "model",
    ["mean_scale_hyperprior", pytest.param("hpcm_tiny --model_options.no_attention", marks=pytest.mark.slow)],
)
def test_a_quantized_codec_decodes_in_whole_numbers(model: str, tmp_path: Path) -> None:
    small = SMALL if "hpcm" not in model else "--crop 64 --batch_size 2 --steps 2 --crops 2 --coded_pictures 1"
    words = shlex.split(f"{small} --model {model} --bits 8 --run_dir {tmp_path / 'run'}")
    assert main(["train", "compress", *words]) == 0
    (network,) = CompressResults.load(tmp_path / "run" / "results.json").networks
    codec = bitdial.load_codec(tmp_path / "run")
    assert (codec.arithmetic, codec.model_id) == (network.arithmetic, network.model_id) == ("integer", network.model_id)
    (file,) = (tmp_path / "run" / "pictures" / "codec-seed0").glob("*.bd")
    assert torch.equal(codec.decompress(file.read_bytes()).pixels, read_picture(file.with_suffix(".png")).pixels)


def test_several_lambdas_go_on_from_one_another(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(f"--lambdas .01 .05 --seeds 2 --no_use_balanced --run_dir {folder}") == 0
    results = CompressResults.load(folder / "results.json")
    assert [(network.name, network.seed) for network in results.networks] == [
        ("lambda_0.05", 0), ("lambda_0.01", 0), ("lambda_0.05", 1), ("lambda_0.01", 1)
    ]  # fmt: skip
    assert not results.networks[0].history.w
    assert len({network.model_id for network in results.networks}) == 4
    both = sorted(network.own.psnr for network in results.by_lambda()[0.01] if network.own is not None)
    assert f"({both[0]:.2f} to {both[1]:.2f})" in (folder / "report.html").read_text()
    assert bitdial.load_codec(folder, arm="lambda_0.01", seed=1).model_id == results.networks[3].model_id


@pytest.mark.parametrize(
    "flags",
    [
        "--model factorized --optimizer cautious_adam --gamma_strategy hpcm",
        "--second_forward_every 2 --gradient_accumulation_steps 2 --precision bfloat16 --gamma_strategy step "
        "--step_epochs 1",
        pytest.param("--model scale_hyperprior --no_adaptive_gamma --no_same_noise", marks=pytest.mark.slow),
        pytest.param("--scheduler step --workers 1 --compile", marks=pytest.mark.slow),
    ],
)
def test_options_go_together(flags: str, tmp_path: Path) -> None:
    assert train(f"{flags} --run_dir {tmp_path / 'run'}") == 0


def test_training_goes_on_from_another_run_gently(run: Path, tmp_path: Path) -> None:
    assert train(f"--finetune --checkpoint {run} --run_dir {tmp_path / 'run'}") == 0
    network = CompressResults.load(tmp_path / "run" / "results.json").networks[0]
    assert network.warmup_steps == 0
    assert network.history.learning_rate[0] == 1e-5
    before = CompressResults.load(run / "results.json").networks[0]
    assert network.history.loss[0] < before.history.loss[0]


@pytest.mark.parametrize(
    ("name", "told"), [("nothing", "nothing"), ("text.pt", "checkpoint"), ("other", "does not fit")]
)
def test_other_checkpoints_are_refused(
    run: Path, name: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    place = run if name == "other" else tmp_path / name
    more = "--model factorized" if name == "other" else ""
    assert train(f"--finetune --checkpoint {place} {more} --run_dir {tmp_path / 'run'}") == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_script_brings_network_and_pictures(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    pictures = [torch.randint(256, (3, 40, 70), dtype=torch.uint8, generator=draw) for _ in range(3)]
    options = {"crop": 32, "batch_size": 2, "steps": 2, "crops": 4, "run_dir": tmp_path / "run"}
    found = bitdial.run("compress", model=MeanScaleHyperprior(4, 4), data=(pictures[:2], pictures[2:]), **options)
    assert "bitdial" in repr(found)
    with pytest.raises(ValueError, match="give it too"):
        bitdial.load_codec(tmp_path / "run")
    codec = bitdial.load_codec(tmp_path / "run", model=MeanScaleHyperprior(4, 4))
    assert codec.model_id == found.networks[0].model_id
