"""Whatever a user gets wrong in ``bitdial train cyclic`` is one sentence, exit status 2, and nothing left on disk."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.cyclic_runs import SMALL, bitdial, everything_below

YAMLS = {
    "unknown.yaml": "stepz: 3\n",
    "group.yaml": "cyclic:\n  cycle_lenght: 30\n",
    "bits.yaml": "cyclic:\n  bit_width_pattern: [8, 0]\n",
    "text.yaml": "just text\n",
    "broken.yaml": "cyclic: [1, 2\n",
}

CASES: list[tuple[str, str]] = [
    # bits
    ("--cyclic.bit_width_pattern 0 4", "--cyclic.bit_width_pattern"),
    ("--cyclic.bit_width_pattern 33", "--cyclic.bit_width_pattern"),
    ("--cyclic.bit_width_pattern x", "--cyclic.bit_width_pattern"),
    ("--model_options.default_bit_width 0", "--model_options.default_bit_width"),
    ("--model_options.default_bit_width 33", "--model_options.default_bit_width"),
    ("--model_options.default_bit_width x", "got 'x'"),
    ("--model_options.bit_widths 4 64", "--model_options.bit_widths"),
    ("--static.test_configurations '{a: 0}'", "test_configurations.a must be in [1, 32], got 0"),
    ("--static.test_configurations '{a: [2,33]}'", "test_configurations.a must be in [1, 32], got 33"),
    ("--static.test_configurations '{a: x}'", "--static.test_configurations"),
    ("--static.test_configurations '{a: []}'", "at least one width"),
    ("--static.test_configurations '{../../a: 2}'", "letters, digits"),
    ("--cyclic.gradient_bits 0.5", "--cyclic.gradient_bits"),
    # names
    ("--cyclic.cycle_lenght 20", "did you mean '--cyclic.cycle_length'?"),
    ("--cyclik.cycle_length 20", "did you mean '--cyclic.cycle_length'?"),
    ("agressive", "did you mean 'aggressive'?"),
    ("--preset nope", "preset"),
    ("--model_options.skip_layers layer9.*", "layer9.*"),
    ("--model_options.skip_layers conv9", "did you mean"),
    ("--dataset digitz", "did you mean 'digits'?"),
    ("--model resnet21", "did you mean 'resnet"),
    ("--model timm/nothing_of_that_name", "nothing_of_that_name"),
    ("--model torchvision/nothing_of_that_name", "nothing_of_that_name"),
    ("--experiment.ablations no_cicling", "no_cycling"),
    ("--cyclic.profile cosine_repeat", "cosine_repeated"),
    ("--config {here}/missing.yaml", "does not exist"),
    ("--config {here}/unknown.yaml", "unknown.yaml, line 1: unknown setting 'stepz'; did you mean 'steps'?"),
    ("--config {here}/group.yaml", "line 2: unknown setting 'cyclic.cycle_lenght'; did you mean"),
    ("--config {here}/bits.yaml", "bits.yaml, line 2: cyclic.bit_width_pattern"),
    ("--config {here}/text.yaml", "'key: value' lines"),
    ("--config {here}/broken.yaml", "syntax error"),
    # numbers
    ("--batch_size 0", "--batch_size"),
    ("--lr fast", "--lr"),
    ("--lr 1e300", "--lr: expected a value less than or equal to 1000000"),
    ("--weight_decay 1e300", "--weight_decay: expected a value less than or equal to 1000000"),
    ("--steps 0", "--steps"),
    ("--steps 3 --epochs 2", "exclude each other"),
    ("--seeds 0", "--seeds"),
    ("--seed -1", "--seed"),
    ("--seed 4294967296", "--seed: expected a value less than 4294967296"),
    ("--devices 99", "99 devices were asked for"),
    ("--strategy zero3", "strategy must be one of auto, ddp"),
    ("--precision 12", "--precision"),
    ("--cyclic.cycle_length 3", "cycle_length must be at least the number of widths"),
    ("--cyclic.smooth_transitions --cyclic.transition_steps 9", "transition_steps must not exceed"),
    ("--distillation_alpha .5 --static.compare_to_baseline false", "compare_to_baseline"),
    ("--static.test_configurations '{d: progressive}' --num_static_iterations 2", "must be at least 4"),
    ("--batch_size 1 --model resnet18", "cannot train on inputs of shape [1, 1, 8, 8]"),
    # data
    ("--dataset folder", "needs data_path"),
    ("--dataset folder --data_path {here}/nowhere", "expected a folder at"),
    ("--dataset folder --data_path {here}/images", "broken.png"),
    ("--dataset npz --data_path {here}/nan.npz", "x_train"),
    ("--dataset npz --data_path {here}/labels.npz", "y_train"),
    ("--dataset npz --data_path {here}/nowhere.npz", "expected a file at"),
    ("--dataset cifar10 --data_path {here}/nowhere", "nowhere"),
    # places
    ("--run_dir {here}/file/below", "a file in its way"),
    ("--run_dir {here}/full", "already holds files"),
    ("--run_dir /proc/bitdial-run", "cannot write a run to /proc"),
    ("--experiment.results_dir {here}/file", "a file in its way"),
    ("--resume", "expected a run to resume under runs/"),
    ("--resume {here}/nowhere", "got nothing"),
    ("--resume {here}/full", "no config.yaml"),
    ("--run_dir {here}/nowhere --resume", "got nothing"),
]  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that is wrong."""
    place = tmp_path_factory.mktemp("wrong")
    for name, text in YAMLS.items():
        (place / name).write_text(text)
    (place / "file").write_text("a file")
    (place / "full").mkdir()
    (place / "full" / "thesis.txt").write_text("years of work")
    for label in ("cat", "dog"):
        (place / "images" / label).mkdir(parents=True)
        for number in range(6):
            image = Image.fromarray(np.full((8, 8, 3), 30 * number, dtype=np.uint8))
            image.save(place / "images" / label / f"{number}.png")
    (place / "images" / "dog" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing of the kind")
    images, labels = np.zeros((40, 1, 8, 8), dtype=np.float32), np.arange(40) % 2
    images[7, 0, 3, 3] = np.nan
    np.savez(place / "nan.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    images[:] = 0.5
    np.savez(place / "labels.npz", x_train=images, y_train=labels[:-1], x_test=images, y_test=labels)
    return place


@pytest.mark.parametrize(("words", "says"), CASES, ids=[words for words, _ in CASES])
def test_one_sentence_and_nothing_left(
    words: str,
    says: str,
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = everything_below(here)
    given = [word.replace("{here}", str(here)) for word in shlex.split(words)]
    named = {word for word in given if word.startswith("--")}
    rest = [] if "--steps" in named else ["--steps", "8"]
    rest += [] if "--model" in named else ["--model", "tiny_cnn"]
    assert bitdial("train", "cyclic", *given, *rest) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bitdial: ")
    assert err.count("\n") == 1, err
    assert says in err
    assert everything_below(tmp_path) == set()
    assert everything_below(here) == before


def test_not_writable_for_this_user(tmp_path: Path) -> None:
    """As somebody who is not root: a folder that may be read and not written."""
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    for parent in (tmp_path, *tmp_path.parents):
        if parent != Path("/tmp") and str(parent).startswith("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    words = [sys.executable, "-m", "bitdial", "train", "cyclic", *SMALL, "--run_dir", str(closed / "run")]
    nobody = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
    home = {"HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            words, cwd="/", capture_output=True, text=True, check=False, env={**os.environ, **home}, **nobody
        )
    except PermissionError:
        pytest.skip("this Python cannot be run by another user")
    if "Permission denied" in done.stderr and "closed" not in done.stderr:
        pytest.skip("this Python cannot be read by another user")
    assert done.returncode == 2
    assert done.stderr.startswith(f"bitdial: cannot write a run to {closed / 'run'}: Permission denied")
    assert done.stderr.count("\n") == 1
    assert list(closed.iterdir()) == []


def test_a_sentence_without_a_traceback_from_a_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bitdial", "train", "cyclic", "--cyclic.bit_width_pattern", "0"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("bitdial: --cyclic.bit_width_pattern:")
    assert list(tmp_path.iterdir()) == []
