"""Run folders in bitdial's form, small ones by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from bitdial.evaluation.results import to_json

CONFIG = {"model": "mlp", "epochs": 2, "seed": 0, "lr": 0.1, "skip_layers": ["<first>"], "cyclic": {"cycle_length": 10}}


def run_folder(
    folder: Path, recipe: str, records: dict[str, list[dict[str, Any]]] | None, metrics: str = "", **options: Any
) -> Path:
    """Write a run: its configuration, its log, and its results where it is finished."""
    config = CONFIG | options
    for name in ("checkpoints", "models", "plots"):
        (folder / name).mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"recipe": recipe, **config}, sort_keys=False))
    (folder / "data.json").write_text("{}")
    if metrics:
        (folder / "metrics.csv").write_text(metrics)
    if records is not None:
        results = {"schema_version": 1, "recipe": recipe, "config": config, **records, "notes": ["One seed."]}
        (folder / "results.json").write_text(to_json(results) + "\n")
    return folder


def score(bits: float, accuracy: float | None, **more: Any) -> dict[str, Any]:
    return {"bits": bits, "accuracy": accuracy, "loss": 0.5, "perplexity": None, **more}


def cyclic_record(name: str, seed: int) -> dict[str, Any]:
    return {
        "name": name, "kind": "cpt", "seed": seed, "scores": [score(2.0, 0.5 + seed / 10), score(8.0, 0.75)],
        "own": score(8.0, 0.75), "own_label": "8", "bitops": 1e9, "iterations": 30,
        "history": {"step": [0, 1], "loss": [2.0, 1.0]}, "precision_note": None,
    }  # fmt: skip


def ternary_record(name: str, seed: int = 0) -> dict[str, Any]:
    return {
        "experiment": name, "seed": seed, "quantizer": "twn", "activation_bits": 8.0, "teacher": None, "steps": 5,
        "stopped_early": True, "validation": {"accuracy": 0.25, "loss": 2.0}, "test": {"accuracy": None, "loss": 2.5},
        "zeros": {"fc2": 0.35}, "file": "models/x.pt", "curve": {"epoch": [1], "train_loss": [2.3]},
    }  # fmt: skip


def codec_record(lambda_value: float) -> dict[str, Any]:
    def point(picture: str, part: str, size: int, psnr: float | None, similar: float | None) -> dict[str, Any]:
        return {
            "picture": picture, "codec": "bitdial" if part == "own" else "JPEG", "part": part, "size": size,
            "pixels": 1000, "bpp": size / 125, "psnr": psnr, "ms_ssim": similar, "encode_seconds": 2.0,
            "decode_seconds": 1.0,
        }  # fmt: skip

    points = [
        point("a", "own", 100, 30.0, 0.9), point("b", "own", 200, 34.0, None), point("exact", "own", 999, 99.0, 1.0),
        point("a", "size", 100, 20.0, 0.1), point("exact", "size", 999, None, 1.0),
    ]  # fmt: skip
    return {"name": "codec", "seed": 0, "lambda_value": lambda_value, "points": points, "steps": 600, "history": {}}
