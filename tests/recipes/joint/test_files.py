"""Configuration files of the project that this recipe reads files of: its nestings, spellings and other sections."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from bitdial.cli import main
from bitdial.configuration import load_config
from bitdial.errors import BitdialError
from bitdial.recipes.joint.options import JointConfig

FULL = Path(__file__).parent / "files" / "full.yaml"
SHORT = """\
quantization:
  enable: true
  any_precision:
    bitwidth_options: [8, 16, 32]
    validation_function: random_bitwidths
    training_method: joint_quantization
random_bitwidths:
  num_bitwidths: 3
"""


def read(text: str, flags: str, folder: Path) -> JointConfig:
    file = folder / "that.yaml"
    file.write_text(text)
    return load_config(JointConfig, {}, ["--yaml_path", str(file), *shlex.split(flags)], recipe="joint")


def test_the_short_file_as_it_stands(tmp_path: Path) -> None:
    found = read(SHORT, "", tmp_path)
    assert found.bitwidth_options == [8, 16, 32]
    assert (found.training_method, found.validation_function) == ("joint_quantization", "random_bitwidths")
    assert (found.quantize, found.num_configs) == (True, 3)
    assert not found.file_notes
    assert found == load_config(JointConfig, {}, ["--config", str(tmp_path / "that.yaml")])


def test_a_full_file(tmp_path: Path) -> None:
    found = read(FULL.read_text(), "", tmp_path)
    assert (found.bitwidth_options, found.num_configs, found.batch_size) == ([8, 16, 32], 4, 128)
    (note,) = found.file_notes
    names = note.partition("ignored: ")[2].split(", ")
    assert set(names) == set(yaml.safe_load(FULL.read_text())) - {"quantization", "random_bitwidths", "batch_size"} | {
        "quantization.dorefa",
        "quantization.pact",
    }
    assert len(names) > 30


@pytest.mark.parametrize("count", ["num_bitwidths", "number_of_configs", "num_configs"])
@pytest.mark.parametrize("place", ["", "quantization", "quantization.any_precision"])
@pytest.mark.parametrize("whole", [False, True])
def test_every_nesting_and_spelling(place: str, count: str, whole: bool, tmp_path: Path) -> None:
    values: dict[str, Any] = yaml.safe_load(FULL.read_text() if whole else SHORT)
    del values["random_bitwidths"]
    inner = values
    for name in place.split(".") if place else ():
        inner = inner[name]
    inner["random_bitwidths"] = {count: 6}
    assert read(yaml.safe_dump(values), "", tmp_path).num_configs == 6


def test_mixtures_agree_or_are_refused(tmp_path: Path) -> None:
    twice = SHORT + "  number_of_configs: {}\n"
    assert read(twice.format(3), "", tmp_path).num_configs == 3
    with pytest.raises(
        BitdialError, match=r"that.yaml, line \d+: 'random_bitwidths.number_of_configs' is 4, got another"
    ):
        read(twice.format(4), "", tmp_path)
    nested = SHORT.replace("  any_precision:", "  random_bitwidths: {number_of_configs: 5}\n  any_precision:")
    with pytest.raises(BitdialError, match="keep one"):
        read(nested, "", tmp_path)


def test_other_keys_of_the_recipe_stand_in_either_section(tmp_path: Path) -> None:
    text = "quantization: {quantizer: dorefa, any_precision: {batch_norm: shared, bitwidth-options: [2, 4]}}\n"
    found = read(text, "", tmp_path)
    assert (found.quantizer, found.batch_norm, found.bitwidth_options) == ("dorefa", "shared", [2, 4])


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    found = read(SHORT, "--bitwidth_options 2 4 --num_configs 9 --training_method sandwich --no_quantize", tmp_path)
    assert (found.bitwidth_options, found.num_configs, found.training_method) == ([2, 4], 9, "sandwich")
    assert not found.quantize
    assert read(SHORT.replace("true", "false"), "--quantize", tmp_path).quantize
    assert not read(SHORT.replace("true", "false"), "--quantization_method any_precision", tmp_path).quantize


def test_ordinary_files_are_read_as_before(tmp_path: Path) -> None:
    assert read("bitwidth_options: [2, 4]\nepochs: 3\n", "", tmp_path).epochs == 3
    with pytest.raises(BitdialError, match="line 2: unknown setting 'optimiser'"):
        read("epochs: 3\noptimiser: {name: sgd}\n", "", tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (SHORT.replace("bitwidth_options", "bitwidth_option"), "line 4: .*did you mean 'bitwidth_options'"),
        (SHORT.replace("enable", "enabled"), "line 2: .*did you mean 'enable'"),
        (SHORT.replace("any_precision:", "any_precisions:"), "line 3: .*did you mean 'any_precision'"),
        (SHORT.replace("num_bitwidths", "num_bitwidth"), "line 8: .*did you mean 'num_bitwidths'"),
        (SHORT.replace("random_bitwidths:", "random_bitwidth:"), "line 7: .*did you mean 'random_bitwidths'"),
        ("quantisation:\n  enable: true\n", "line 1: .*did you mean 'quantization'"),
        (SHORT + "batchsize: 3\n", "line 9: .*did you mean 'batch_size'"),
        (SHORT.replace("joint_quantization", "joint_quantisation"), "line 6: training_method: .*did you mean"),
        (SHORT.replace("random_bitwidths\n", "random_bitwidth\n"), "line 5: validation_function: .*did you mean"),
        (SHORT.replace("[8, 16, 32]", "8, 16, 32"), "line 4: bitwidth_options: expected a list of numbers"),
        (
            SHORT.replace("[8, 16, 32]", "[8, 64]"),
            "line 4: bitwidth_options: expected a value less than or equal to 32",
        ),
        (SHORT.replace("[8, 16, 32]", "[8, eight]"), "line 4: bitwidth_options: expected .* got 'eight'"),
        (SHORT.replace("[8, 16, 32]", "[]"), "line 4: bitwidth_options: "),
        (SHORT.replace("[8, 16, 32]", "[8, 8]"), "8 twice"),
        (SHORT.replace("true", "maybe"), "line 2: quantize: expected true or false, got 'maybe'"),
        (SHORT.replace("  num_bitwidths: 3", "  num_bitwidths: 0"), "line 8: num_configs: expected a value greater"),
        ("quantization: true\n", "line 1: quantization must be a section of settings"),
        ("quantization: [1, 2]\n", "line 1: quantization must be a section of settings"),
        ("random_bitwidths: 4\n", "line 1: random_bitwidths must be a section of settings"),
        ("- quantization\n- random\n", "got a list"),
        ("quantization:\n\tenable: true\n", "line 2, column 1: expected YAML"),
        (SHORT + "quantization:\n  enable: false\n", "key 'quantization' stands twice"),
    ],
)
def test_one_sentence_with_file_and_line(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BitdialError, match=sentence) as caught:
        read(text, "", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "quantization:\n", "quantization: {}\nrandom_bitwidths:\n"])
def test_an_empty_file_or_section_changes_nothing(text: str, tmp_path: Path) -> None:
    assert read(text, "", tmp_path) == JointConfig()


def test_strict_refuses_what_means_nothing(tmp_path: Path) -> None:
    with pytest.raises(BitdialError, match=r"that.yaml, line 2: expected settings .* got 'base_folder' and \d+ more"):
        read(FULL.read_text(), "--strict", tmp_path)
    with pytest.raises(BitdialError, match="expected settings that mean something here"):
        read(FULL.read_text() + "strict: true\n", "", tmp_path)
    assert read(SHORT, "--strict", tmp_path).bitwidth_options == [8, 16, 32]


def test_the_command_as_people_type_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    words = f"--model TinyCNN --model_variant tiny_cnn --yaml_path {FULL} --quantization_method any_precision"
    words = words.replace("TinyCNN", "tiny")
    assert main(["train", "joint", *shlex.split(words), "--steps", "2", "--run_dir", str(folder)]) == 0
    told = capsys.readouterr().err
    assert told.count("means nothing here and is ignored") == 1
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert (saved["model"], saved["bitwidth_options"], saved["num_configs"]) == ("tiny_cnn", [8, 16, 32], 4)
    assert main(["train", "joint", "--resume", str(folder)]) == 0
