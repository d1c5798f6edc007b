"""``bitdial recommend`` and ``bitdial bench`` as a user runs them."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bitdial.cli import main
from bitdial.commands.bench import SUBJECTS
from bitdial.commands.workload import SHAPES
from bitdial.configuration import load_config
from bitdial.data import load_dataset
from bitdial.recipes.cyclic.options import CyclicConfig

QUICK = ["--model", "tiny_cnn", "--dataset", "digits", "--batch_size", "4", "--iterations", "2"]


@pytest.fixture(autouse=True)
def a_processor_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tests run on; and a terminal of 80 columns."""
    for home in ("training.step.formats", "commands.recommend_run"):
        monkeypatch.setattr(f"bitdial.{home}.good_at_bfloat16", lambda _: True)
        monkeypatch.setattr(f"bitdial.{home}.good_at_float16", lambda _: False)
    told_speeds(monkeypatch, bfloat16=1.7, float16=0.1)
    monkeypatch.setenv("COLUMNS", "80")


def told_speeds(monkeypatch: pytest.MonkeyPatch, **speeds: float) -> None:
    """Have products timed at these speeds."""
    for home in ("commands.recommend_run", "doctor.trials"):
        monkeypatch.setattr(f"bitdial.{home}.product_speeds", lambda _: speeds)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(printed(capsys, *words, "--json"))


class TestRecommend:
    def test_a_large_network(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = printed(capsys, "recommend", "--model", "resnet18", "--batch_size", "128", "--device", "cpu")
        assert out.startswith("resnet18 on cifar10 (3x32x32, 10 classes), batch 128, on cpu\n")
        assert "Use mixed precision (bfloat16)." in out
        assert "11.2 million parameters" in out
        assert "262,144" in out
        assert "cpu native bfloat16" in out
        assert "1.7 times as fast as in float32" in out
        assert "slower here: 10 times as long as" in out
        assert "--precision bfloat16" in out

    def test_where_narrow_products_are_slower_the_answer_is_no(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told_speeds(monkeypatch, bfloat16=0.12, float16=0.05)
        found = as_json(capsys, "recommend", "--model", "resnet18", "--device", "cpu")
        assert found["decision"]["use"] is False
        against = "Products in bfloat16 were timed here (cpu) at 0.12 times the speed of float32"
        assert found["decision"]["reasons_against"][0].startswith(against)
        assert found["machine"]["arithmetic"]["cpu products bfloat16"]["works"] is False
        assert "--precision" not in found["commands"]["train"]

    def test_a_small_network_is_told_to_stay(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = printed(capsys, "recommend", "--model", "tiny_cnn", "--batch-size", "2", "--available-memory", "64")
        assert "Stay in float32." in out
        assert "Settings, if you use it all the same" in out
        assert "--precision" not in out

    @pytest.mark.parametrize("words", [["recommend", "--model", "resnet20"], ["bench", "amp", *QUICK]])
    def test_fits_80_columns(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        lines = printed(capsys, *words).splitlines()
        too_long = [line for line in lines if len(line) > 80 and "bitdial " not in line and not line.startswith("tiny")]
        assert too_long == []

    def test_json_holds_decision_settings_and_machine(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = as_json(capsys, "recommend", "--model", "resnet18", "--available_memory", "8", "--device", "cpu")
        decision = found["decision"]
        assert decision["use"] is True
        assert decision["points"] == 5
        assert decision["available_memory"] == 8.0
        assert decision["parameters"] == 11_173_962
        assert decision["dtype"] == "bfloat16"
        assert found["settings"] == {
            "dtype": "bfloat16", "init_scale": 2.0**18, "growth_factor": 2.0, "memory_efficient": True
        }  # fmt: skip
        assert found["setting_reasons"].keys() == found["settings"].keys()
        assert found["machine"]["arithmetic"]["cpu native float16"]["works"] is False
        assert "memory" in found["machine"]["machine"]

    def test_float16_takes_its_scale_along(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told_speeds(monkeypatch, bfloat16=0.4, float16=2.0)
        found = as_json(capsys, "recommend", "--model", "resnet18", "--device", "cpu")
        assert "--precision float16 --mixed_precision.init_scale 262144" in found["commands"]["train"]

    @pytest.mark.parametrize("model", ["resnet18", "resnet32", "vgg_small"])
    def test_its_command_lines_are_understood(self, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        commands = as_json(capsys, "recommend", "--model", model, "--device", "cpu")["commands"]
        train = shlex.split(commands["train"])
        assert train[:3] == ["bitdial", "train", "cyclic"]
        config = load_config(CyclicConfig, {}, train[3:])
        assert config.model == model
        assert config.precision == "bfloat16"
        assert config.mixed_precision.memory_efficient is (model == "resnet18")
        assert shlex.split(commands["measure"])[:3] == ["bitdial", "bench", "amp"]

    def test_the_shape_of_a_data_set_is_the_real_one(self) -> None:
        data = load_dataset("digits")
        assert SHAPES["digits"] == (data.in_channels, data.image_size, data.num_classes)

    def test_nothing_is_downloaded_or_written(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("bitdial.data.registry.load_dataset", None)
        printed(capsys, "recommend", "--model", "tiny_cnn", "--dataset", "cifar100")
        assert list(tmp_path.iterdir()) == []

    def test_data_of_ones_own(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        import numpy as np

        x, y = np.zeros((12, 2, 16, 16), dtype=np.float32), np.arange(12) % 3
        np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        place = str(tmp_path / "mine.npz")
        out = printed(capsys, "recommend", "--model", "tiny_cnn", "--dataset", "npz", "--data_path", place)
        assert out.startswith("tiny_cnn on npz (2x16x16, 3 classes)")
        assert f"--data_path {place}" in out


class TestBench:
    def test_table_and_verdict(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = printed(capsys, "bench", "amp", *QUICK, "--device", "cpu", "--dtype", "bfloat16")
        assert out.startswith("tiny_cnn on digits (1x8x8, 10 classes), batch 4, on cpu: ")
        assert "\nfloat32 " in out
        assert "\nbfloat16 " in out
        assert "kept for the backward pass" in out
        assert "pay here" in out or "pays here" in out

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = as_json(capsys, "bench", "amp", *QUICK, "--device", "cpu", "--dtype", "float16")
        assert (found["dtype"], found["iterations"], found["batch_size"]) == ("float16", 2, 4)
        assert [row["name"] for row in found["rows"]] == ["float32", "float16"]
        assert found["machine"]["processor"]
        assert found["speedup"] > 0

    def test_auto_takes_the_format_of_the_device(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert as_json(capsys, "bench", "amp", *QUICK, "--device", "cpu")["dtype"] == "bfloat16"

    def test_help_lists_what_there_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = printed(capsys, "bench", "--help")
        assert all(f"  {name} " in out for name in SUBJECTS)
        assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", ["recommend", "bench amp"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, *command.split(), "--help")
    assert f"usage: bitdial {command}" in out
    assert all(flag in out for flag in ("--model", "--batch_size", "--dataset", "--device", "--json"))


CASES: list[tuple[str, str]] = [
    ("bench", "expected what to measure, got nothing; there are: amp, runtime, codec"),
    ("bench apm", "expected what to measure, got 'apm'; there are: amp, runtime, codec; did you mean 'amp'?"),
    ("bench --model resnet18", "expected what to measure before the flags, got '--model'"),
    ("bench amp resnet18", "expected a flag, got 'resnet18'"),
    ("bench amp --dtype float8 --device cpu", "float8 needs an NVIDIA GPU"),
    ("bench amp --dtype float32", "--dtype: expected one of"),
    ("bench amp --dtype bfloat61", "did you mean 'bfloat16'?"),
    ("bench amp --iterations 0", "--iterations"),
    ("bench amp --iterations many", "--iterations: expected a whole number, got 'many'"),
    ("bench amp --batch_size 0", "--batch_size"),
    ("bench amp --model mlp --batch_size 2147483647", "memory ran out with a batch of 2147483647"),
    ("bench amp --model resnet18 --dataset digits --batch_size 1", "cannot train on inputs of shape [1, 1, 8, 8]"),
    ("recommend resnet18", "expected a flag, got 'resnet18'"),
    ("recommend --modle resnet18", "did you mean '--model'?"),
    ("recommend --model resnet19", "did you mean 'resnet18'?"),
    ("recommend --model timm/nothing_of_that_name", "nothing_of_that_name"),
    ("recommend --model", "--model: expected text after the flag, got nothing"),
    ("recommend --batch_size 1.5", "--batch_size: expected a whole number, got 1.5"),
    ("recommend --batch_size 4 --batch-size 5", "two names of the same"),
    ("recommend --batch_size 4294967296", "--batch_size"),
    ("recommend --available_memory 0", "--available_memory"),
    ("recommend --available-memory -3", "--available_memory"),
    ("recommend --available_memory nan", "--available_memory"),
    ("recommend --available_memory lots", "--available_memory: expected a number or none, got 'lots'"),
    ("recommend --dataset cifar11", "--dataset: expected a data set's name, got 'cifar11'; did you mean 'cifar10'?"),
    ("recommend --dataset folder", "needs data_path"),
    ("recommend --dataset npz --data_path /nowhere.npz", "no file"),
    ("recommend --data_path /tmp", "--data_path is for the data sets folder and npz"),
    ("recommend --device tpu", "--device: expected one of"),
    ("recommend --image_size 0", "--image_size"),
    ("recommend --model torchvision/vit_b_16 --image_size 30", "torchvision/vit_b_16"),
    ("recommend --config /nowhere.yaml", "does not exist"),
]


@pytest.mark.parametrize(("words", "says"), CASES, ids=[words for words, _ in CASES])
def test_bad_input_is_one_sentence(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip().startswith("bitdial: ")
    assert err.strip().count("\n") == 0, err
    assert says in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("command", ["recommend", "bench amp"])
def test_a_gpu_that_is_not_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--device", "cuda"]) == 2
    assert "--device: expected a device that is here, got cuda" in capsys.readouterr().err


def test_ctrl_c_is_quiet(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bitdial", "bench", "amp", *QUICK[:-1], "100000000", "--device", "cpu"]
    started = (
        "import signal, sys, runpy, bitdial.training.mixed_precision.benchmark as b\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "former = b.take_turns\n"
        "b.take_turns = lambda *given: (print('started', flush=True), former(*given))[1]\n"
        "sys.argv = ['bitdial', *sys.argv[1:]]\n"
        "runpy.run_module('bitdial', run_name='__main__')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", started, *words[3:]],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.strip().endswith("bitdial: interrupted")
    assert out == ""
