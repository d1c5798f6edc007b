"""The kernels of a GPU, in a process in which Triton interprets them; and machines that have no such thing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version

from bitdial.errors import BitdialError
from bitdial.machine import version
from bitdial.runtime import Network, load
from bitdial.runtime.gpu import pack, packed_matmul, trial, why_no_triton
from bitdial.runtime.gpu.trial import device_for, why_no_launch

REPOSITORY = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
OLD = Version(version("triton") or "9") < Version("3.8")
needs_interpreter = pytest.mark.skipif(
    OLD and Version(np.__version__) >= Version("2.4"),
    reason="the interpreter of Triton before 3.8 needs NumPy before 2.4",
)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def interpreted(*words: str) -> None:
    """Run the tests in ``tests/runtime/gpu``."""
    command = [sys.executable, "-m", "pytest", "tests/runtime/gpu", "-q", "-p", "no:cacheprovider", *words]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@needs_triton
@needs_interpreter
def test_kernels_equal_sums_in_64_bits_under_the_interpreter() -> None:
    interpreted()


@needs_triton
@needs_interpreter
@pytest.mark.slow
def test_kernels_equal_sums_in_64_bits_at_random_shapes() -> None:
    interpreted("-m", "slow")


@pytest.fixture
def no_triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which Triton is not installed."""
    for each in (why_no_launch, why_no_triton):
        each.cache_clear()
    monkeypatch.setattr(trial.importlib.util, "find_spec", lambda name: None)
    yield
    for each in (why_no_launch, why_no_triton):
        each.cache_clear()


CODES = torch.ones(2, 3, dtype=torch.int8)


@pytest.mark.usefixtures("no_triton")
def test_a_machine_without_triton_says_what_to_install() -> None:
    assert "pip install triton" in why_no_triton("cpu")
    with pytest.raises(BitdialError, match=r"need a GPU and Triton: Triton is not installed.*pip install triton"):
        packed_matmul(torch.zeros(1, 3, dtype=torch.uint8), pack(CODES))
    with pytest.raises(BitdialError, match="way triton is not"):
        Network(torch.nn.Linear(3, 2), way="triton", device="cpu")


@needs_triton
@without_gpu
def test_a_processor_is_no_gpu() -> None:
    with pytest.raises(BitdialError, match="cpu is no GPU, and TRITON_INTERPRET=1"):
        packed_matmul(torch.zeros(1, 3, dtype=torch.uint8), pack(CODES))


@without_gpu
def test_a_gpu_that_is_not_there() -> None:
    assert why_no_triton() == "PyTorch finds no GPU here"
    assert device_for(None, None) == device_for("fake", "cpu") == torch.device("cpu")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(BitdialError, match=rf"device {device} is not here: PyTorch finds no GPU; take cpu"):
            device_for(None, device)
    with pytest.raises(BitdialError, match="way triton needs a GPU, and PyTorch finds none here"):
        device_for("triton", None)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", "mps", "meta", 3.5, "cuda:-1", "[red]"])
def test_a_device_is_one_of_two_kinds(device: Any) -> None:
    with pytest.raises(BitdialError, match="device must be cpu, cuda, or cuda:1 and so on, got"):
        device_for(None, device)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"device": "gpu"}, "device must be cpu"),
        ({"way": "triton", "device": "cpu"}, "way triton is not one of cpu, which has kernels, onednn, fake"),
        ({"way": "tritn"}, "way must be one of kernels"),
    ],
)
def test_a_file_is_not_loaded_onto_what_is_not_there(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    path.touch()
    with pytest.raises(BitdialError, match=sentence):
        load(path, **given)
