"""Where a codec's time goes, and how much memory a picture of 24 megapixels takes.

Run with ``python -m benchmarks.codec_speed``; half an hour on two cores, most of it for HPCM. Weights are random, with
latents scaled so that symbols cost something: what a network has learned changes its speed little. The pictures are
made of the two photographs that scikit-learn ships, mirrored. Models take turns, medians of all rounds are given, yet
another process on the machine still shows: shares of stages say more than seconds. Large pictures are coded in
processes of their own, whose peak of resident memory includes torch.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from benchmarks.machine import describe
from bitdial.compression import codec as codec_module
from bitdial.compression.codec import Codec
from bitdial.compression.models import HPCM, CompressionModel, FactorizedPrior, MeanScaleHyperprior, ScaleHyperprior

RESULTS = Path(__file__).parent / "results"
MODELS: dict[str, Callable[[], CompressionModel]] = {
    "FactorizedPrior": FactorizedPrior,
    "ScaleHyperprior": ScaleHyperprior,
    "MeanScaleHyperprior": MeanScaleHyperprior,
    'HPCM("tiny")': lambda: HPCM("tiny"),
    'HPCM("base")': HPCM,
}
SMALL = (512, 768)
LARGE = {"MeanScaleHyperprior": (4000, 6000), 'HPCM("tiny")': (4000, 6000), 'HPCM("base")': (1088, 1088)}
STAGES = ("analysis", "hyper", "tables", "entropy coding", "synthesis", "file", "context and the rest")


def photograph(height: int, width: int) -> Tensor:
    """Uint8 ``[3, height, width]``: the two photographs side by side, mirrored as often as it takes."""
    one, other = (torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in load_sample_images().images)
    row = torch.cat([one, other, one.flip(2), other.flip(2)], 2)
    field = torch.cat([row, row.flip(1)], 1)
    times = -(-height // field.shape[1]), -(-width // field.shape[2])
    return field.repeat(1, *times)[:, :height, :width].contiguous()


def build(name: str) -> Codec:
    """A codec of random weights."""
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        model.g_a.branch[-1].weight.mul_(20)  # type: ignore[union-attr, operator]
    return Codec(model)


def seconds_by_stage(codec: Codec, action: Callable[[], object]) -> dict[str, float]:
    """The seconds that each stage of `action` takes."""
    times = dict.fromkeys(STAGES, 0.0)

    def clocked(stage: str, inner: Any) -> Any:
        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args, **options)
            finally:
                times[stage] += time.perf_counter() - start

        return timed

    model, container = codec.model, codec_module.container
    with ExitStack() as patches:
        for stage, owner, attribute in (
            ("analysis", model.g_a, "forward"),
            ("hyper", getattr(model, "h_a", None), "forward"),
            ("hyper", getattr(model, "h_s", None), "forward"),
            ("tables", codec, "_tables"),
            ("entropy coding", codec_module, "encode_parts"),
            ("entropy coding", codec_module.Decoder, "read"),
            ("synthesis", model.g_s, "forward"),
            ("file", codec_module, "symbols_crc"),
            ("file", codec_module, "write"),
            ("file", container, "read"),
            ("file", container.File, "check"),
        ):
            if owner is not None:
                patches.enter_context(mock.patch.object(owner, attribute, clocked(stage, getattr(owner, attribute))))
        start = time.perf_counter()
        action()
        whole = time.perf_counter() - start
    times["context and the rest"] = whole - sum(times.values())
    return {**times, "whole": whole}


def measure_small(names: list[str], rounds: int) -> dict[str, Any]:
    """Median seconds of every stage of both ways, models in turn; the slow one has a single round."""
    pixels = photograph(*SMALL)
    codecs = {name: build(name) for name in names}
    files = {name: codec.compress(pixels) for name, codec in codecs.items() if name != 'HPCM("base")'}
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {"encode": [], "decode": []} for name in names}
    for number in range(rounds):
        for name in names:
            if name == 'HPCM("base")' and number:
                continue
            codec = codecs[name]
            ways: dict[str, Callable[[], object]] = {
                "encode": lambda codec=codec, name=name: files.update({name: codec.compress(pixels)}),  # type: ignore[misc]
                "decode": lambda codec=codec, name=name: codec.decompress(files[name]),  # type: ignore[misc]
            }
            for way, action in ways.items():
                found[name][way].append(seconds_by_stage(codec, action))
    return {
        name: {
            "bits_per_pixel": round(8 * len(files[name]) / (SMALL[0] * SMALL[1]), 3),
            "rounds": len(ways["encode"]),
            **{
                way: {stage: round(statistics.median(each[stage] for each in times), 4) for stage in times[0]}
                for way, times in ways.items()
            },
        }
        for name, ways in found.items()
    }


def measure_large(name: str, way: str, path: Path) -> dict[str, float]:
    """In this process, which has done nothing else: seconds, and the peak of its memory."""
    start_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    codec = build(name)
    pixels = photograph(*LARGE[name]) if way == "encode" else None
    start = time.perf_counter()
    if pixels is not None:
        path.write_bytes(codec.compress(pixels))
    else:
        codec.decompress(path.read_bytes())
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": round(seconds, 1),
        "peak_gib": round(peak / 2**20, 2),
        "before_gib": round(start_memory / 2**20, 2),
        "bytes": path.stat().st_size,
    }


def in_a_process(name: str, way: str, path: Path) -> dict[str, float]:
    """`measure_large` in a fresh one."""
    words = [sys.executable, "-m", "benchmarks.codec_speed", "--one", name, way, str(path)]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found


def table(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    height, width = SMALL
    head = f"| {width} x {height} | bits per pixel | seconds | {' | '.join(STAGES)} |"
    lines = [head, "|---|--:|--:|" + "--:|" * len(STAGES)]
    for name, row in results["small"].items():
        for way in ("encode", "decode"):
            whole = row[way]["whole"]
            shares = " | ".join(f"{100 * row[way][stage] / whole:.0f}%" for stage in STAGES)
            lines.append(f"| {name}, {way} | {row['bits_per_pixel']:.2f} | {whole:.2f} | {shares} |")
    lines += ["", "| large | pixels | seconds | peak of memory (GiB) | before (GiB) |", "|---|---|--:|--:|--:|"]
    for name, ways in results["large"].items():
        height, width = LARGE[name]
        for way, row in ways.items():
            size = f"{width} x {height}"
            lines.append(f"| {name}, {way} | {size} | {row['seconds']:.0f} | {row['peak_gib']} | {row['before_gib']} |")
    told = (
        "Wall time, medians of up to "
        f'{results["rounds"]} rounds with the models in turn, one for HPCM("base"); other processes ran beside it, so '
        "the shares of the stages say more than the seconds. Peaks are of a process that does this alone; "
        '"before" is what it holds once everything is imported.'
    )
    facts = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    return "\n".join([*lines, "", told, "", f"Machine: {facts}."])


def main() -> None:
    """Measure, print the table and write ``results/codec_speed.json`` and ``.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="those of the small picture")
    parser.add_argument("--large", nargs="*", choices=LARGE, default=list(LARGE), help="those of large pictures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS / "codec_speed.md")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_large(options.one[0], options.one[1], Path(options.one[2]))))
        return
    results: dict[str, Any] = {"benchmark": "codec_speed", "rounds": options.rounds, "large": {}}
    results["machine"] = describe(packages=("numpy", "constriction"))
    for name in options.large:  # first: a process begins with the peak of the one that started it
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "picture.bd")
            results["large"][name] = {way: in_a_process(name, way, path) for way in ("encode", "decode")}
        print(name, results["large"][name], flush=True)
    results["small"] = measure_small(options.models, options.rounds)
    options.results.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    options.results.write_text(table(results) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
