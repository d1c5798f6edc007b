"""The tests in ``tests/gpu``, on the GPU (on the CPU where there is none), each file a case."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as Xml
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu.parts import Bench, Row

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = {
    "quantizers": ("test_quantizers.py", 40.0),
    "resume": ("test_resume.py", 45.0),
    "mixed precision": ("test_mixed_precision.py", 45.0),
    "out of memory": ("test_out_of_memory.py", 25.0),
    "graphs": ("test_graphs.py", 90.0),
}


def cases(toy: bool) -> Mapping[str, float]:
    """A case for each file; what compiles comes last."""
    names = ["out of memory"] if toy else list(FILES)  # the others run in the suite itself
    return {name: FILES[name][1] for name in names}


def measure(case: str, bench: Bench) -> list[Row]:
    """Run the tests of a file that are for the device; the ones that fail make a failed case."""
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        report = Path(folder) / "report.xml"
        words = [sys.executable, "-m", "pytest", f"tests/gpu/{FILES[case][0]}", "-k", bench.device, "-q", "--tb=short"]
        words += ["-n", "6"] if case == "graphs" and bench.device == "cuda" else []  # a compiler for each quantizer
        # A warning of another release of torch is no failure here.
        words += ["-W", "default", "-p", "no:cacheprovider", f"--junitxml={report}"]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        print(done.stdout, done.stderr)
        if not report.exists():
            raise RuntimeError(f"pytest ended with status {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
        suite = next(Xml.parse(report).iter("testsuite"))
    count, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = [
        f"{each.attrib['name']}: {(each.find('failure') or each.find('error') or each).attrib.get('message', '')[:200]}"
        for each in suite.iter("testcase")
        if each.find("failure") is not None or each.find("error") is not None
    ]
    if failed:
        raise AssertionError(f"{len(failed)} of {count} tests failed: {'; '.join(failed)}"[:1500])
    if count == skipped:
        raise RuntimeError(f"all {count} tests were skipped")
    return [{"case": case, "passed": count - skipped, "skipped": skipped, "seconds": float(suite.attrib["time"])}]


def table(rows: Sequence[Row]) -> list[str]:
    """One row a file."""
    lines = ["| tests | passed | skipped | s |", "|---|--:|--:|--:|"]
    return lines + [f"| {row['case']} | {row['passed']} | {row['skipped']} | {row['seconds']:.0f} |" for row in rows]
