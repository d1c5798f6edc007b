"""What a hostile and a tired user type: one sentence each, exit status 2, and nothing left behind."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import bitdial
from bitdial.cli import main
from bitdial.numerics import ACTIVATION_QUANTIZERS, QUANTIZERS
from bitdial.recipes.joint.options import JointConfig

FILES = {
    "list.yaml": "- 2\n- 4\n",
    "text.yaml": "eight bits\n",
    "tabs.yaml": "quantization:\n\tenable: true\n",
    "binary.yaml": "\x00\x01",
    "options.yaml": "bitwidth_options: 2, 4, 8\n",
    "recipe.yaml": "recipe: cyclic\nsteps: 3\n",
}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--bitwidth_options", "--bitwidth_options: expected a list of numbers"),
        ("--bitwidth_options 4", "got only 4 in bitwidth_options"),
        ("--bitwidth_options 0 4", "--bitwidth_options: expected a value greater than or equal to 1"),
        ("--bitwidth_options 4 33", "--bitwidth_options: expected a value less than or equal to 32"),
        ("--bitwidth_options 4 4 8", "bitwidth_options must be different widths, got 4 twice"),
        ("--bitwidth_options four eight", "expected a list of numbers"),
        ("--bitwidth_options 2,4,8", "separate the values with spaces"),
        ("--bitwidth_options nan 4", "--bitwidth_options"),
        ("--bitwidth_option 4", "did you mean '--bitwidth_options'?"),
        ("--training_method any-precision", "did you mean 'any_precision'?"),
        ("--training_method joint", "expected one of 'any_precision', 'alternating', 'joint_quantization'"),
        ("--training_method matryoshka --loss_weights 1 2", "one for each of the 4 bitwidth_options, got 2"),
        ("--training_method matryoshka --loss_weights 1 2 3 -1", "--loss_weights: expected a value greater"),
        ("--training_method matryoshka --loss_weights 0 0 0 0", "above 0 for at least one width"),
        ("--loss_weights 1 1 1 1", "loss_weights belong to training_method matryoshka"),
        ("--joint_quantization_batch_size 0", "--joint_quantization_batch_size"),
        ("--validation_function random", "did you mean 'random_bitwidths'?"),
        ("--validation_bits 4", "validation_bits belong to validation_function fixed_bitwidth"),
        ("--num_configs 0", "--num_configs: expected a value greater"),
        ("--num_configs 3 --num_bitwidths 3", "two names of the same"),
        ("--validation_fraction 1", "--validation_fraction: expected a value less than 1"),
        ("--quantizer twn", "'uniform', 'dorefa'"),
        ("--weight_quantizer unifrom", "did you mean 'uniform'?"),
        ("--activation_quantizer twn", "--activation_quantizer: expected one of"),
        ("--quantization_method dorefa", "which is a quantizer; write --quantizer dorefa"),
        ("--quantization_method sandwich", "which is a training method; write --training_method sandwich"),
        ("--quantization_method qat", "expected 'any_precision', got 'qat'"),
        ("--skip_layers conv9", "layer pattern must match"),
        ("--model resnet21", "did you mean 'resnet"),
        ("--model ResNet", "give --model_variant, one of resnet20"),
        ("--model ResNet --model_variant resnet19", "did you mean 'resnet18'?"),
        ("--model RezNet --model_variant resnet18", "did you mean 'resnet'?"),
        ("--model mlp --batch_norm per_width", "batch_norm per_width must have a network with batch norms"),
        ("--gpu 0", "torch finds no GPU here"),
        ("--gpu -1", "--gpu: expected a value greater than or equal to 0"),
        ("--gpu 0 --devices 2", "gpu names one GPU, got 0 beside devices=2"),
        ("--epochs 2", "exclude each other"),
        ("--yaml_path {folder}/list.yaml", "got a list"),
        ("--yaml_path {folder}/text.yaml", "got a piece of text"),
        ("--yaml_path {folder}/tabs.yaml", "line 2, column 1: expected YAML"),
        ("--yaml_path {folder}/binary.yaml", "expected YAML"),
        ("--yaml_path {folder}/options.yaml", "line 1: bitwidth_options: expected a list of numbers"),
        ("--yaml_path {folder}/recipe.yaml", "got those of cyclic"),
        ("--yaml_path {folder}", "got the folder"),
        ("--yaml_path {folder}/lists.yaml", "did you mean 'list.yaml'?"),
        ("--yaml_path", "expected a file after the flag"),
        ("--yaml_path {folder}/list.yaml --config {folder}/list.yaml", "two names of the same"),
        ("research", "expected a flag, got 'research'"),
    ],
)
def test_one_sentence(
    flags: str,
    sentence: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path_factory.mktemp("files")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = shlex.split(flags.format(folder=folder))
    rest = [] if "--model" in words else ["--model", "tiny_cnn"]
    assert main(["train", "joint", *words, *rest, "--steps", "4"]) == 2
    text = capsys.readouterr().err
    assert sentence in text
    assert text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_below_32_bits_teaches_and_is_told_of(tmp_path: Path) -> None:
    flags = "--model mlp --steps 2 --training_method any_precision --bitwidth_options 2 8 --no_sensitivity"
    assert main(["train", "joint", *shlex.split(flags), "--run_dir", str(tmp_path / "run")]) == 0
    assert "no 32-bit teacher" in (tmp_path / "run" / "report.html").read_text()


def test_one_width_is_trained_plainly(tmp_path: Path) -> None:
    flags = "--model mlp --steps 2 --training_method vanilla_single_precision_training --bitwidth_options 4"
    assert main(["train", "joint", *shlex.split(flags), "--run_dir", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("weights", QUANTIZERS)
def test_every_weight_quantizer_can_be_chosen(weights: str, tmp_path: Path) -> None:
    flags = f"--model tiny_cnn --steps 2 --weight_quantizer {weights} --bitwidth_options 2 32 --no_sensitivity"
    assert main(["train", "joint", *shlex.split(flags), "--run_dir", str(tmp_path / "run")]) == 0
    assert bitdial.load(tmp_path / "run").dial


@pytest.mark.parametrize("activations", ACTIVATION_QUANTIZERS)
def test_every_activation_quantizer_can_be_chosen(activations: str, tmp_path: Path) -> None:
    flags = f"--model tiny_cnn --steps 2 --activation_quantizer {activations} --no_sensitivity"
    assert main(["train", "joint", *shlex.split(flags), "--run_dir", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ({"model": "ResNet", "model_variant": "resnet18"}, "resnet18"),
        ({"model": "resnet18", "model_variant": "resnet18"}, "resnet18"),
        ({"model": "MobileNet"}, "mobilenetv2"),
        ({"model": "VGG", "model_variant": "vgg_small"}, "vgg_small"),
        ({"model": "torchvision/resnet34"}, "torchvision/resnet34"),
    ],
)
def test_families_of_models(given: dict[str, str], model: str) -> None:
    assert JointConfig(**given).model == model  # type: ignore[arg-type]


def test_a_gpu_is_a_list_of_one_device() -> None:
    assert JointConfig(gpu=1).devices == [1]
    assert JointConfig(gpu=1, devices=1).devices == [1]
    with pytest.raises(ValueError, match="give one of them"):
        JointConfig(gpu=1, devices=2)
