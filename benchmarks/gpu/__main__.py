"""The command: see the package."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from pathlib import Path

from benchmarks.gpu.driver import REPOSITORY, Driver, probe
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.record import Record
from bitdial.errors import BitdialError

RESULTS = REPOSITORY / "benchmarks" / "results" / "gpu"
AT_THE_END = 2.0
"""Seconds that are kept for what comes after the last case."""


def arguments() -> argparse.ArgumentParser:
    """The flags."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Measure on a GPU what only a GPU can show, most valuable first, in a given time. Results are "
        "written after every case; given again, the command goes on where it stopped.",
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="when to be done (default: 8)")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder of results (default: {RESULTS})")
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help=f"of {', '.join(names)}")
    parser.add_argument("--again", nargs="+", choices=names, metavar="PART", default=[], help="measure these anew")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST's four files")
    parser.add_argument(
        "--scratch", type=Path, default=REPOSITORY / "build" / "gpu", help="logs, caches, runs (default: build/gpu)"
    )
    parser.add_argument("--toy", action="store_true", help="tiny sizes, also on a CPU, to try the script")
    return parser


def main(words: list[str] | None = None) -> int:
    """Measure; 0 also where cases failed, for that is a result; 2 where nothing could be measured."""
    parser = arguments()
    options = parser.parse_args(words)
    began = time.time()
    if not 0 < options.minutes < math.inf:
        parser.error(f"--minutes must be a number above 0, got {options.minutes:g}")
    if options.data is not None and not options.data.is_dir():
        parser.error(f"--data must be a folder, got {options.data}; make gpu-bundle puts the files into data/")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are stopped
    try:
        found = probe()
        on_gpu = found["device"] != "CPU"
        if not on_gpu and not options.toy:
            raise BitdialError("this needs a GPU, and torch finds none here; --toy tries the script on a CPU")
        record = Record(options.out, found["device"], toy=options.toy, machine=found["machine"])
        for part in PARTS:
            if part.name in options.again:
                record.forget(part)
        options.scratch.mkdir(parents=True, exist_ok=True)
        driver = Driver(
            record, began + 60 * options.minutes - AT_THE_END, "cuda" if on_gpu else "cpu", options.toy,
            options.scratch.resolve(), options.data and options.data.resolve(),
        )  # fmt: skip
        print(f"{found['device']}: {options.minutes:g} minutes, results in {record.path}", flush=True)
        driver.run([part for part in PARTS if not options.only or part.name in options.only])
    except BitdialError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"error: {error.strerror}: {error.filename}; --out and --scratch must be folders to write to",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"stopped; {record.path} has what was measured, and the same command goes on", file=sys.stderr)
        return 130
    print(f"results: {record.path.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
