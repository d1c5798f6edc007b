"""Pictures of every kind as files, and how the command is called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from bitdial.cli import main

_GENERATOR = np.random.default_rng(0)


class Printed(NamedTuple):
    status: int
    out: str
    err: str


def bitdial(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Printed:
    """Give a command in this process, one picture at a time."""
    status = main([str(word) for word in words])
    return Printed(status, *capsys.readouterr())


def write(path: Path | str, width: int = 24, height: int = 20, mode: str = "RGB", **options: Any) -> Path:
    """Write a smooth random picture."""
    channels = {"L": 1, "I;16": 1, "RGB": 3}.get(mode, 4)
    size = (height // 8 + 2, width // 8 + 2)
    coarse = [Image.fromarray(_GENERATOR.integers(0, 256, size, dtype=np.uint8)) for _ in range(channels)]
    bands = [np.asarray(each.resize((width, height), Image.Resampling.BICUBIC)) for each in coarse]
    if mode == "I;16":
        image = Image.fromarray(bands[0].astype(np.uint16) * 251)
    else:
        image = Image.fromarray(bands[0] if channels == 1 else np.stack(bands, -1), mode)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def files(folder: Path | str) -> dict[str, bytes]:
    """All files below a folder, hidden ones too, with their bytes."""
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}
