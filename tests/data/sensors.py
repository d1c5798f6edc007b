"""Small sets of recordings in the public layout, written by the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bitdial.data import write_recording

Spec = Mapping[str, tuple[int, int]]
VEHICLES: Spec = {"audio": (1, 8000), "seismic": (1, 100)}
"""Modality -> channels and rate."""
BODY: Spec = {"motion": (6, 256), "orientation": (4, 256)}
TINY: Spec = {"audio": (1, 160), "seismic": (1, 20)}


def write_set(
    folder: Path,
    recordings: Mapping[str, Mapping[str, int]],
    spec: Spec = TINY,
    *,
    segments: int = 3,
    window: float = 1.0,
    intervals: int = 5,
    mapping: bool = True,
    missing: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, list[Path]]:
    """Write part -> {recording: class}; the level of a class is its number, so that it can be learned."""
    (folder / "segments").mkdir(parents=True)
    generator, found = torch.Generator().manual_seed(0), {}
    for part, own in recordings.items():
        paths: list[Path] = []
        for name, label in own.items():
            signals = {
                modality: (
                    torch.randn(channels, round(segments * window * rate), generator=generator)
                    + 3 * torch.sin(torch.arange(round(segments * window * rate)) * (0.5 + label)),
                    rate,
                )
                for modality, (channels, rate) in spec.items()
            }
            labels: Any = [{"vehicle_type": label, "distance": 3.5, "speed": 7.0}] * segments if mapping else label
            paths += write_recording(
                folder / "segments", name, "road", signals, labels, window=window, intervals=intervals, missing=missing
            )
        lines = "".join(f"{path.relative_to(folder).as_posix()}\n" for path in paths)
        (folder / f"{part}_index.txt").write_text(lines)
        found[part] = paths
    return found


def six(folder: Path, **how: Any) -> dict[str, list[Path]]:
    """Two classes, a recording of each in every part."""
    parts = {part: {f"car-{part}": 0, f"van-{part}": 1} for part in ("train", "val", "test")}
    return write_set(folder, parts, **how)


def change(path: Path, **values: Any) -> None:
    """Put something else at keys of a file."""
    content = torch.load(path, weights_only=True)
    torch.save({**content, **values}, path)
