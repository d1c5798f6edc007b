"""What a second sensor is worth: the small network on generated vehicles, with both modalities and with each alone.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.signals [--seeds N]``; takes a minute of one core for three seeds.
Every run is the command line of a user, and is measured on recordings that it was not trained on; both modalities and
one alone are paired by seed. ``--picture`` only draws one recording into docs/images/vehicle.png.
"""

from __future__ import annotations

import argparse
import io
import json
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe
from bitdial.cli import main as bitdial
from bitdial.data.vehicles import AUDIO_RATE, SEISMIC_RATE, passing
from bitdial.evaluation.drawing import COLOURS
from bitdial.evaluation.plot_style import new_figure, quiet
from bitdial.evaluation.statistics import interval, paired_difference
from bitdial.files import write_atomically

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PICTURE = HERE.parent / "docs" / "images" / "vehicle.png"
COMMAND = shlex.split("train joint --dataset vehicles --signals.transform rfft --steps 80 --bitwidth_options 4 32")
CHOICES = {"audio and seismic": ["audio", "seismic"], "audio alone": ["audio"], "seismic alone": ["seismic"]}
_POINTS = 256  # of a spectrum in the picture


def measure(modalities: list[str], seeds: int, folder: Path) -> dict[str, Any]:
    """Train with some modalities; return the test accuracy at each width, by seed, and the seconds of training."""
    run = folder / "-".join(modalities)
    words = [*COMMAND, "--signals.modalities", *modalities, "--seeds", str(seeds), "--run_dir", str(run)]
    began = time.perf_counter()
    if status := bitdial(words):
        raise SystemExit(f"`bitdial {shlex.join(words)}` ended with {status}")
    networks = json.loads((run / "results.json").read_text(encoding="utf-8"))["networks"]
    widths = [score["bits"] for score in networks[0]["scores"]]
    scores = {f"{bits:g}": [each["scores"][at]["accuracy"] for each in networks] for at, bits in enumerate(widths)}
    return {"accuracy": scores, "seconds": time.perf_counter() - began}


def table(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table, accuracies in percent."""
    both, *_ = results["rows"].values()
    widths = list(both["accuracy"])
    lines = [
        f"| modalities | {' | '.join(f'{bits} bits (%)' for bits in widths)} | minus both at {widths[-1]} bits |",
        f"|---|{'--:|' * (len(widths) + 1)}",
    ]
    for name, row in results["rows"].items():
        means = " | ".join(_spread(interval(row["accuracy"][bits])) for bits in widths)
        difference = paired_difference(row["accuracy"][widths[-1]], both["accuracy"][widths[-1]])
        lines.append(f"| {name} | {means} | {'' if row is both else _spread(difference)} |")
    facts = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    seconds = ", ".join(f"{name} {row['seconds']:.0f} s" for name, row in results["rows"].items())
    told = (
        f"{results['seeds']} seeds, 560 training and 210 test segments, no recording in both; 7 classes, chance is "
        "14.3%. Differences are paired by seed."
    )
    return "\n".join([*lines, "", f"{told} {seconds}. Machine: {facts}.", "", f"`bitdial {shlex.join(COMMAND)}`"])


def _spread(value: Any) -> str:
    half = f" +- {100 * (value.high - value.low) / 2:.1f}" if value.low is not None else ""
    return f"{100 * value.mean:.1f}{half}"


def picture(vehicle: str = "carrier", seed: int = 3) -> bytes:
    """Draw what the microphone and the geophone hear of one vehicle that passes, as a PNG of few colours."""
    found = passing(vehicle, np.random.default_rng(seed))
    windows = np.lib.stride_tricks.sliding_window_view(found.audio, 2 * _POINTS)[::_POINTS] * np.hanning(2 * _POINTS)
    levels = 20 * np.log10(np.abs(np.fft.rfft(windows)) + 1e-4)
    seconds = len(found.audio) / AUDIO_RATE
    figure = new_figure(7.5, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.imshow(
        levels.T, origin="lower", aspect="auto", extent=(0, seconds, 0, AUDIO_RATE / 2000), cmap="magma",
        vmin=np.percentile(levels, 5), interpolation="nearest",
    )  # fmt: skip
    quiet(upper, title=f"Microphone: a {vehicle} passes", x="", y="frequency (kHz)")
    upper.grid(False)
    lower.plot(np.arange(len(found.seismic)) / SEISMIC_RATE, found.seismic, color=COLOURS[0], linewidth=0.6)
    quiet(lower, title="Geophone", x="time (s)", y="ground (full scale 1)")
    content = io.BytesIO()
    figure.savefig(content, dpi=110)
    small = io.BytesIO()
    Image.open(content).convert("RGB").quantize(64).save(small, "PNG", optimize=True)
    return small.getvalue()


def main() -> None:
    """Measure, print the table and write ``results/signals.json`` and ``.md``; or draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", action="store_true")
    options = parser.parse_args()
    if options.picture:
        write_atomically(PICTURE, picture())
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: measure(chosen, options.seeds, Path(folder)) for name, chosen in CHOICES.items()}
    results = {"benchmark": "signals", "machine": describe(), "seeds": options.seeds, "rows": rows}
    (RESULTS / "signals.json").write_text(json.dumps(results, indent=2) + "\n")
    (RESULTS / "signals.md").write_text(table(results) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
