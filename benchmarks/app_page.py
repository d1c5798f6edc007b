"""What the page costs: time to its address, a rebuilt page, a poll, memory, and what watching costs a run.

Run with ``python -m benchmarks.app_page``, six minutes. Pages are asked for as a browser asks: over HTTP, through
Gradio's queue. Runs that are watched and runs that are not take turns; CPU seconds are told beside the clock, because
other work on the machine moves the clock more than watching does.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.app import RUNS, make_runs
from bitdial import machine
from bitdial.app.web.run_pages import SECONDS

STARTS, POLLS, PAIRS = 3, 1000, 3
TRAINING = [
    *("joint", "--model", "tiny_cnn", "--dataset", "digits"),
    *("--limit_train", "512", "--limit_test", "64", "--steps", "40"),
]


class Server:
    """A server as a user starts it, and a browser's requests to it."""

    def __init__(self, folder: Path) -> None:
        words = [sys.executable, "-m", "bitdial", "app", "--port", "0", "--runs", str(folder)]
        begin = time.perf_counter()
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.where = urlsplit(self.process.stdout.readline().split(": ")[1].strip())
        self.told = time.perf_counter() - begin
        self.get("/")
        self.shown = time.perf_counter() - begin

    def ask(self, path: str, body: Any = None) -> bytes:
        """One request."""
        connection = http.client.HTTPConnection(self.where.hostname or "", self.where.port, timeout=120)
        data = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found = answer.read()
        connection.close()
        assert answer.status == 200, (path, answer.status, found[:200])
        return found

    get = ask

    def event(self, page: str, kind: str) -> int:
        """Number of what happens on a page at an event: "load" of the page, or "tick" of its timer."""
        config = json.loads(self.get("/config"))
        here = {*config["page"][page]["dependencies"]}
        return next(
            each["id"]
            for each in config["dependencies"]
            if each["id"] in here and any(event == kind for _, event in each["targets"])
        )

    def trigger(self, number: int, data: Sequence[Any], query: str = "", session: str = "") -> str:
        """What an event gives, as the page would be drawn with; a page has one session as long as it is open."""
        session = session or os.urandom(6).hex()
        self.ask(f"/gradio_api/queue/join{query}", {"data": list(data), "fn_index": number, "session_hash": session})
        answer = self.get(f"/gradio_api/queue/data?session_hash={session}").decode()
        assert '"success":true' in answer, answer[-300:]
        return answer

    def cpu(self) -> float:
        """Seconds of the processor so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """MB that are resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6

    def close(self) -> None:
        """End it as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server for a while."""
    server = Server(folder)
    try:
        yield server
    finally:
        server.close()


def main() -> None:
    """Measure and print a table."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make_runs(root)
        rows = [*starts(root), *pages(root)]
    with tempfile.TemporaryDirectory() as place:
        rows += watching(Path(place))
    print(f"{machine.processor()}, {machine.usable_cores()} cores, load {load:.1f} to {os.getloadavg()[0]:.1f}\n")
    print("| what | median | from | to |\n|---|--:|--:|--:|")
    for what, values, unit in rows:
        cells = [f"{each:.3g} {unit}" for each in (statistics.median(values), min(values), max(values))]
        print(f"| {what} | {' | '.join(cells)} |")


Row = tuple[str, list[float], str]


def starts(root: Path) -> list[Row]:
    """From the command to the address, and to the first page."""
    told, shown = [], []
    for _ in range(STARTS):
        with serving(root) as server:
            told.append(server.told)
            shown.append(server.shown)
    return [("address printed", told, "s"), ("first page answered", shown, "s")]


def pages(root: Path) -> list[Row]:
    """A rebuilt page, polls, and memory."""
    with serving(root) as server:
        fresh = server.memory()
        table, look = server.event("runs", "load"), server.event("run", "tick")
        rebuilt = [seconds(lambda: (server.get("/runs"), server.trigger(table, []))) for _ in range(10)]
        polls = [1000 * seconds(lambda: server.get("/api/runs/cyclic-7")) for _ in range(200)]
        looks: list[float] = []
        memory = []
        for number in range(POLLS):
            query = f"?run=cyclic-{number % RUNS}"
            looks.append(1000 * seconds(lambda query=query: server.trigger(look, [""], query)))  # type: ignore[misc]
            if number + 1 in (POLLS // 10, POLLS):
                memory.append(server.memory())
    return [
        (f"page Runs rebuilt with {RUNS} runs", rebuilt, "s"),
        ("poll of a run's status", polls, "ms"),
        ("look of the page of a run, with curves of 2,000 rows", looks, "ms"),
        ("memory of the server when it has begun", [fresh], "MB"),
        (f"after {POLLS // 10} looks", memory[:1], "MB"),
        (f"after {POLLS} looks", memory[1:], "MB"),
    ]


def watching(root: Path) -> list[Row]:
    """Pairs of runs, one of them watched by a page, in turns, the first of a pair changing."""
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    taken: list[float] = []
    with serving(root) as server:
        look = server.event("run", "tick")
        for pair in range(PAIRS):
            for watched in (pair % 2 == 0, pair % 2 == 1):
                name, before = f"{'watched' if watched else 'alone'}-{pair}", server.cpu()
                found[watched].append(trained(root / name, server if watched else None, look))
                if watched:
                    taken.append(100 * (server.cpu() - before) / found[watched][-1][1])
    pairs = list(zip(found[True], found[False], strict=True))
    return [
        ("CPU seconds of a run alone", [cpu for cpu, _ in found[False]], "s"),
        ("of one that is watched", [cpu for cpu, _ in found[True]], "s"),
        ("difference of a pair, CPU", [100 * (a[0] / b[0] - 1) for a, b in pairs], "%"),
        ("difference of a pair, clock", [100 * (a[1] / b[1] - 1) for a, b in pairs], "%"),
        ("what the server takes of one core meanwhile", taken, "%"),
    ]


def trained(folder: Path, server: Server | None, look: int) -> tuple[float, float]:
    """CPU seconds and seconds of a run, looked at as often as a page looks, or not."""
    words = [sys.executable, "-m", "bitdial", "train", *TRAINING, "--run_dir", str(folder)]
    ended = threading.Event()

    def watch() -> None:
        assert server is not None
        mark, session = "", os.urandom(6).hex()
        while not ended.wait(SECONDS):
            if (folder / "config.yaml").exists():
                answer = server.trigger(look, [mark], f"?run={folder.name}", session)
                done = next(line for line in reversed(answer.splitlines()) if "process_completed" in line)
                mark = str(json.loads(done.partition(":")[2])["output"]["data"][-1])

    watcher = threading.Thread(target=watch) if server is not None else None
    begin = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if watcher is not None:
        watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    ended.set()
    if watcher is not None:
        watcher.join()
    return usage.ru_utime + usage.ru_stime, took


def seconds(call: Any) -> float:
    """On the clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
