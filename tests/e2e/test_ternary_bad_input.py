"""What a user can get wrong: one sentence, status 2, and nothing half written."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from bitdial.cli import main
from tests.recipes.ternary.tiny import stopped_before, train

BAD = {
    "--model resnet21": "did you mean 'resnet",
    "--dataset digit": "did you mean 'digits'?",
    "--dataset folder": "data_path",
    "--quantizer ternary": "did you mean 'ternary_lsq'?",
    "--skip_layers convX": "layer pattern must match",
    "--batch_size 3 --devices 2": "must divide by the 2 processes",
    "--devices 4096": "4096 devices were asked for",
    "--strategy dpp": "did you mean 'ddp'?",
    "--resume nowhere": "nowhere, got nothing",
    "--resume .": "no config.yaml",
    "--resume text.pt": "text.pt",
    "--resume": "expected a run to resume under runs/, got none",
    "--start_from nowhere.pt": "expected a checkpoint or a state dict at nowhere.pt",
    "--teacher nowhere": "expected the folder of a run at nowhere",
    "--csv_log text.pt": "which is a file already",
    "--csv_log text.pt/log.csv": "text.pt is a file; choose another",
    "--run_dir full": "already holds files",
    "--validation_fraction .0001": "hold some out",
    "--steps 2 --warmup_epochs 3": "warmup_steps must be below",
    "--config nowhere.yaml": "does not exist",
    "--experiments '{a: {model: resnet21}}'": "did you mean 'resnet",
    "--strategy fdsp": "did you mean 'fsdp'?",
    "--strategy fsdp_spawn --devices 2": "starts a function of a script",
    "fresch": "did you mean 'fresh'?",
}


def below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text file and a folder that is not empty."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    return tmp_path


@pytest.mark.parametrize("flags", BAD)
def test_one_sentence(flags: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = below(place)
    words = shlex.split(flags)
    small = [] if "--model" in words or "resnet" in flags else ["--model", "mlp"]
    assert main(["train", "ternary", *words, *small]) == 2
    text = capsys.readouterr().err
    assert BAD[flags] in text
    assert text.startswith("bitdial: ")
    assert text.count("\n") == 1
    assert below(place) == before


def test_a_teacher_that_is_not_finished_or_not_float(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stopped_before(1):
        assert train("--epochs 1 --run_dir unfinished") == 130
    capsys.readouterr()
    assert train("--teacher unfinished --epochs 1") == 2
    assert "must be a finished run" in capsys.readouterr().err
    assert main(["export", "unfinished"]) == 2
    assert "unfinished has no trained network; finish its run first" in capsys.readouterr().err
    assert main(["train", "ternary", "--resume", "unfinished"]) == 0
    capsys.readouterr()
    assert train("--teacher unfinished --epochs 1") == 2
    assert "must be a run with --quantizer none" in capsys.readouterr().err


class TestExport:
    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            ("", "expected RUN after the command"),
            ("nowhere", "expected the folder of a finished run at nowhere, got nothing"),
            ("full", "has no trained network"),
            ("text.pt", "is not a trained network, or it is damaged"),
            ("full --format onxn", "did you mean 'onnx'?"),
            ("full --style qdq", "an option of --format onnx"),
            ("full --format onnx --encoding 2bit", "an option of --format packed"),
            ("full --format onnx --style qqd", "did you mean 'qdq'?"),
            ("full --format onnx --style native --form fast", "--form fast is one of --style qdq"),
            ("full --format onnx --form quick", "quick"),
            ("full --format onnx --calibration 0", "calibration"),
            ("full --format onnx --test_examples -1", "test_examples"),
            ("full --format onnx --output full", "got the folder full"),
            ("full --format onnx --output net.pt", "must end with .onnx"),
            ("nowhere --format onnx", "got nothing"),
            ("full --encoding base4", "did you mean 'base3'?"),
        ],
    )
    def test_one_sentence(self, words: str, sentence: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = below(place)
        assert main(["export", *shlex.split(words)]) == 2
        text = capsys.readouterr().err
        assert sentence in text
        assert text.count("\n") == 1
        assert below(place) == before

    def test_an_unquantized_network_has_nothing_to_pack(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert train("--epochs 1 --quantizer none --run_dir float") == 0
        capsys.readouterr()
        assert main(["export", "float"]) == 2
        assert "which is unquantized" in capsys.readouterr().err
        assert main(["export", "float", "--seed", "4"]) == 2
        assert "float-seed0" in capsys.readouterr().err
