"""Shares the time out among the parts, and runs their cases in processes that may fail, hang or lose the device."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.child import LAST
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.record import CUT, DONE, FAILED, WAITING, Record
from bitdial.errors import BitdialError

GRACE = 3.0
"""Seconds beyond its limit after which a case is stopped from outside: those that watch the clock end by themselves."""
LEAST = 4.0
"""Seconds with which nothing is started any more: a process needs as long to import torch."""
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Driver:
    """One call of the script.

    Attributes:
        record: where results go.
        until: when all must be over, as ``time.time`` counts.
        device, toy, scratch, data: as in `Bench`.
        tell: gets a line for every case.
    """

    record: Record
    until: float
    device: str
    toy: bool
    scratch: Path
    data: Path | None
    tell: Callable[[str], None] = print
    _tried: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.until - time.time()

    def run(self, parts: Sequence[Part] = PARTS) -> None:
        """Measure what is not measured yet: first what was never tried, then what was cut off, then what failed."""
        # What early parts had no time for, later ones may have left over: what waits comes twice.
        for state in (WAITING, WAITING, CUT, FAILED):
            self._round(parts, state)
        self.record.write()

    def _round(self, parts: Sequence[Part], state: str) -> None:
        """One turn through the parts; each gets its share of the time that is left."""
        todo = {part.name: self._open(part, state) for part in parts}
        waiting = [part for part in parts if todo[part.name]]
        for number, part in enumerate(waiting):
            share = part.seconds / sum(each.seconds for each in waiting[number:])
            self._part(part, todo[part.name], time.time() + share * self.left)

    def _open(self, part: Part, state: str) -> list[str]:
        """The cases of a part in a state; of those tried in this call only the ones that had less than their limit."""
        limits = part.module.cases(self.toy)
        found = [case for case in limits if self.record.entry(part, case)["state"] == state]
        return [case for case in found if self._tried.get((part.name, case), 0.0) < 0.9 * limits[case]]

    def _part(self, part: Part, cases: list[str], until: float) -> None:
        """Run cases in as many processes as it takes."""
        while cases and until - time.time() > LEAST:
            before = len(cases)
            cases = self._child(part, cases, until)
            if len(cases) == before:  # what is left is not worth starting in the time that is left
                return

    def _child(self, part: Part, cases: list[str], until: float) -> list[str]:
        """Run cases in one process, until it ends or one of them must be stopped; return those not begun."""
        journal, log = self.scratch / f"journal-{os.getpid()}", self.scratch / f"{part.name}.log"
        journal.unlink(missing_ok=True)
        words = [sys.executable, "-m", "benchmarks.gpu.child", f"{part.package}.{part.name}", *cases]
        words += ["--journal", str(journal), "--until", str(until), "--device", self.device]
        words += ["--scratch", str(self.scratch), *(["--toy"] if self.toy else [])]
        words += ["--data", str(self.data)] if self.data else []
        env = {"TORCHINDUCTOR_CACHE_DIR": str(self.scratch / "inductor"), **os.environ, "PYTHONUNBUFFERED": "1"}
        env.setdefault("OMP_NUM_THREADS", str(min(len(os.sched_getaffinity(0)), 16)))
        with log.open("ab") as output:
            start = output.tell()
            process = subprocess.Popen(
                words, cwd=REPOSITORY, env=env, stdout=output, stderr=output, start_new_session=True
            )
            watch = _Watch(journal, cases)
            try:
                while process.poll() is None and not watch.overdue(until):
                    for case, entry in watch.news():
                        self._put(part, case, entry)
                    time.sleep(0.05)
            finally:
                stopped = process.poll() is None
                _stop(process)
        for case, entry in watch.news():
            self._put(part, case, entry)
        if watch.running is not None:
            said = _tail(log, start)
            state = CUT if stopped else FAILED
            ended = "" if stopped else f"the process ended with status {process.returncode}: "
            self._put(part, watch.running, {"state": state, "seconds": watch.seconds, "said": ended + said})
        elif process.returncode not in (0, 3) and not stopped and watch.not_begun == cases:
            self._put(part, cases[0], {"state": FAILED, "seconds": watch.seconds, "said": _tail(log, start)})
            return cases[1:]
        return watch.not_begun

    def _put(self, part: Part, case: str, entry: dict[str, Any]) -> None:
        limit = part.module.cases(self.toy)[case]
        self._tried[part.name, case] = entry["seconds"] if entry["state"] == CUT else limit
        self.record.put(part, case, {**entry, "day": datetime.date.today().isoformat()})
        problem = entry["said"].strip().splitlines()[-1:] if entry["state"] == FAILED else []
        self.tell(
            f"{part.name:12} {case:40} {entry['state']:8} {entry['seconds']:6.1f} s   {max(self.left, 0):4.0f} s left"
            + "".join(f"\n{'':13}{line[:160]}" for line in problem)
        )


class _Watch:
    """Follows the journal of a child."""

    def __init__(self, journal: Path, cases: Sequence[str]) -> None:
        self._journal, self._read = journal, 0
        self.not_begun = list(cases)
        self.running: str | None = None
        self._began = time.time()
        self._limit = float("inf")

    @property
    def seconds(self) -> float:
        """Since the running case began; before the first one, since the process was started."""
        return time.time() - self._began

    def overdue(self, until: float) -> bool:
        """Whether the child must be stopped."""
        late = self.running is not None and self.seconds > self._limit + GRACE
        return late or time.time() > until + GRACE

    def news(self) -> list[tuple[str, dict[str, Any]]]:
        """The cases that ended since the last call."""
        if not self._journal.exists():
            return []
        lines = self._journal.read_text(encoding="utf-8").split("\n")[:-1]  # the last one may be half written
        found = []
        for line in map(json.loads, lines[self._read :]):
            if "began" in line:
                self.running, self._limit, self._began = line["began"], line["limit"], time.time()
                self.not_begun.remove(line["began"])
                continue
            self.running = None
            if "put_back" in line:
                continue
            ended = {"state": FAILED if "failed" in line else DONE, "seconds": round(self.seconds, 1)}
            result = {"said": line["failed"]} if "failed" in line else {"rows": line["rows"]}
            found.append((line["ended"], {**ended, **result}))
        self._read = len(lines)
        return found


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a child and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path, start: int) -> str:
    with log.open("rb") as stream:
        stream.seek(start)
        return stream.read().decode(errors="replace")[-LAST:]


def probe() -> dict[str, Any]:
    """Ask a process of its own what this machine is, so that this one leaves the GPU alone.

    Raises:
        BitdialError: torch cannot be imported there.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.child"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = " ".join(done.stderr.split("\n")[-3:]).strip()
        raise BitdialError(
            f"the benchmark must run where bitdial does, got: {last}; install it, `make gpu-bundle` says how"
        )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
