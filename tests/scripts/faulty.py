"""A part of the GPU script whose cases go wrong in every way that a real one might."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from benchmarks.gpu.parts import Bench, NotEnoughTimeError, Row


def cases(toy: bool) -> Mapping[str, float]:
    """Name -> limit."""
    return {
        "fine": 5,
        "raises": 5,
        "dies": 5,
        "hangs": 1,
        "exits": 5,
        "leaves a process": 1,
        "sees that there is no time": 5,
        "fine again": 5,
    }


def measure(case: str, bench: Bench) -> list[Row]:
    """Do what the case's name says; the first try of each is noted."""
    with (bench.scratch / "tried").open("a") as file:
        file.write(f"{case}\n")
    match case:
        case "raises":
            raise ValueError("a sentence\nin two lines with a | and <b>markup</b>")
        case "dies":
            print("last words", flush=True)
            os._exit(139)
        case "exits":
            sys.exit(5)
        case "sees that there is no time":
            raise NotEnoughTimeError("it takes a week")
        case "hangs":
            time.sleep(60)
        case "leaves a process":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            (bench.scratch / "pid").write_text(str(child.pid))
            child.wait()
    return [{"case": case, "left": bench.seconds_left}]


def table(rows: Sequence[Row]) -> list[str]:
    """One row a case."""
    return ["| case |", "|---|", *(f"| {row['case']} |" for row in rows)]
