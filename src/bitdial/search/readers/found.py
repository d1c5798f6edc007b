"""What is known of a finished run, whatever wrote it down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class FoundRun:
    """A run.

    Attributes:
        name: unique in an analysis: the path below the folder, with "#3" or ":arm-seed0" where a file has several.
        source: "bitdial", "wandb", "tensorboard", "csv", "json", "trackio" or "optuna".
        path: the file or folder that it was read from.
        state: "finished", "running or crashed", "failed" or "pruned".
        config: flat, nested keys joined by dots; numbers, strings, booleans, None; lists as compact JSON text.
        metrics: the last value of each metric.
        steps: logged steps, or the last step.
        notes: what is missing or damaged, in words.
        group: what it belongs to, such as a study.
    """

    name: str
    source: str
    path: Path
    state: str
    config: dict[str, Any]
    metrics: dict[str, float]
    steps: int | None
    notes: list[str]
    group: str | None = None


@dataclass
class Unread:
    """A file that could not be read, and why in a sentence."""

    path: Path
    reason: str
