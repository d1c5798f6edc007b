"""The subject ``bitdial bench runtime MODEL``: a trained network in the packed runtime and in others."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from bitdial.configuration import Config, load_config, take_operands
from bitdial.errors import BitdialError
from bitdial.lazy import loading_torch

PROG = "bitdial bench runtime"


class BenchRuntimeConfig(Config):
    """Time a trained network in the packed runtime and in others, in turn, and say how large it is.

    MODEL is a packed file or the folder of a run. Beside it stand the same network in PyTorch and in the runtimes that
    are installed (onnxruntime, openvino). E.g. `bitdial bench runtime runs/ternary-1`.
    """

    batch: list[int] = Field([1, 32], min_length=1)
    """Images at a time; several are measured one after the other."""
    threads: list[int] = Field([1], min_length=1)
    """Threads to compute on; several are measured one after the other."""
    rounds: int = Field(11, ge=1, le=10_000)
    """How often each way is timed; the median counts."""
    everything: bool = False
    """Also what takes long to prepare: PyTorch's compiler, OpenVINO's quantizer."""
    json_output: bool = False
    """Print JSON instead of tables (also --json)."""

    aliases = {"json": "json_output"}


def run(argv: list[str]) -> int:
    """Measure and print a table for each batch and number of threads; return the exit status."""
    words, flags = take_operands(BenchRuntimeConfig, argv)
    options = load_config(BenchRuntimeConfig, {}, flags, prog=PROG, positional="model")
    if len(words) != 1:
        got = " ".join(f"'{word}'" for word in words) or "nothing"
        raise BitdialError(f"expected one MODEL, got {got}; e.g. `{PROG} runs/ternary-1`")
    for name, values, most in (("batch", options.batch, 4096), ("threads", options.threads, 1024)):
        wrong = [value for value in values if not 1 <= value <= most]
        if wrong:
            raise BitdialError(f"--{name}: expected whole numbers from 1 to {most}, got {wrong[0]}")
    model = Path(words[0])
    if not model.exists():
        raise BitdialError(f"expected a packed file or a run at {model}, got nothing; check the path")
    if model.suffix == ".onnx":
        raise BitdialError(f"expected a packed file or a run, got the ONNX file {model}; name the run that it is of")
    loading_torch()
    from bitdial.commands.bench_runtime_run import bench_runtime

    return bench_runtime(model, options)
