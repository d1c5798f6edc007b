"""The command ``bitdial predict MODEL IMAGE...``: what a trained network takes pictures for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from bitdial.configuration import Config, load_config, take_operands
from bitdial.errors import BitdialError
from bitdial.lazy import loading_torch

PROG = "bitdial predict"
_EXAMPLE = f"e.g. `{PROG} runs/ternary-1 shoe.png`"


class PredictConfig(Config):
    """Say what a trained network takes pictures for.

    MODEL is a packed file, the folder of a run, or an ONNX file; IMAGE are pictures or folders of pictures.
    E.g. `bitdial predict runs/ternary-1 shoe.png`.
    """

    top: int = Field(3, ge=1, le=1000)
    """How many classes to name for each picture, the likeliest first."""
    threads: int | None = Field(None, ge=1, le=1024)
    """To compute on; none: as many as there are cores."""
    way: Literal["kernels", "onednn", "triton", "fake"] | None = None
    """What computes it: kernels (packed weights), onednn (int8 through PyTorch), triton (packed weights, GPU), fake
    (floating point); none: the first of them that the device has."""
    device: str | None = None
    """Where: cpu, or cuda for a GPU; none: the CPU, but for --way triton a GPU."""
    json_output: bool = False
    """Print JSON instead of a table (also --json)."""

    aliases = {"json": "json_output"}


def run(argv: list[str]) -> int:
    """Predict what the words name and print a table; return the exit status."""
    words, flags = take_operands(PredictConfig, argv)
    options = load_config(PredictConfig, {}, flags, prog=PROG, positional="model image [image ...]")
    if len(words) < 2:
        got = f"'{words[0]}' alone" if words else "nothing"
        raise BitdialError(f"expected a MODEL and one IMAGE or more, got {got}; {_EXAMPLE}")
    model, *images = map(Path, words)
    for path in (model, *images):
        if not path.exists():
            what = "a packed file, a run or an ONNX file" if path is model else "a picture or a folder of pictures"
            raise BitdialError(f"expected {what} at {path}, got nothing; check the path")
    loading_torch()
    from bitdial.commands.predict_run import predict

    return predict(model, images, options)
