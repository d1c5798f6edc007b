"""What was found, case by case: a JSON file and a Markdown table for each device, and a README of what still waits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import PARTS, Part
from bitdial.errors import BitdialError
from bitdial.files import write_atomically

WAITING, DONE, FAILED, CUT = "waiting", "done", "failed", "cut off"
"""States of a case: not tried yet; measured; ended with an error; did not end within its time."""


class Record:
    """The results of one device in a folder; written anew, whole, after every case.

    Args:
        folder: where the files lie; made if need be.
        device: its name, as the driver tells it.
        toy: small sizes: kept apart from real figures.
        machine: facts about it, from `benchmarks.machine.describe`.

    Raises:
        BitdialError: a file of results that cannot be read.
    """

    def __init__(self, folder: Path, device: str, *, toy: bool, machine: dict[str, Any]) -> None:
        self.path = folder / f"{_slug(f'toy {device}' if toy else device)}.json"
        self.content: dict[str, Any] = {"benchmark": "gpu", "device": device, "toy": toy, "parts": {}}
        if self.path.exists():
            self.content.update(_read(self.path))
        self.content["machine"] = machine

    def entry(self, part: Part, case: str) -> dict[str, Any]:
        """What is known of a case."""
        found: dict[str, Any] = self.content["parts"].get(part.name, {}).get(case, {"state": WAITING})
        return found

    def put(self, part: Part, case: str, entry: dict[str, Any]) -> None:
        """Take notice of a case, and write. What was measured before is not given up for a later failure."""
        known = self.content["parts"].setdefault(part.name, {})
        if known.get(case, {}).get("state") == DONE and entry["state"] != DONE:
            return
        known[case] = entry
        self.write()

    def forget(self, part: Part) -> None:
        """Measure a part again from nothing."""
        self.content["parts"].pop(part.name, None)

    def write(self) -> None:
        """Write both files and the README."""
        write_atomically(self.path, json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")
        write_atomically(self.path.with_suffix(".md"), markdown(self.content))
        if not self.content["toy"]:
            write_atomically(self.path.with_name("README.md"), readme(self.path.parent))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["benchmark"] != "gpu" or not isinstance(content["parts"], dict):
            raise ValueError("it is not of this benchmark")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BitdialError(f"{path} must hold results of this benchmark, got: {error}; move it away") from error
    return content  # type: ignore[no-any-return]


def markdown(content: dict[str, Any], parts: Sequence[Part] = PARTS) -> str:
    """The results of a device as a page."""
    lines = [f"# Measured on {content['device']}", ""]
    if content["toy"]:
        lines += ["Toy sizes, to try the script: these figures say nothing.", ""]
    for part in parts:
        known = content["parts"].get(part.name)
        if not known:
            continue
        lines += [f"## {part.title}", ""]
        rows = [row for entry in known.values() for row in entry.get("rows", [])]
        if rows:
            lines += [*part.module.table(rows), ""]
        for case, entry in known.items():
            if entry["state"] != DONE:
                said = " ".join(entry["said"].replace("`", "'").split())[-300:]  # in quotes: it is nobody's markup
                lines.append(f"- {case}: {entry['state']} after {entry['seconds']:.0f} s{said and f': `{said}`'}")
        if lines[-1]:
            lines.append("")
    facts = ", ".join(f"{key} {value}" for key, value in content["machine"].items())
    days = sorted({entry["day"] for known in content["parts"].values() for entry in known.values()})
    lines.append(f"Measured on {', '.join(days)}. Machine: {facts}.")
    return "\n".join(lines) + "\n"


def readme(folder: Path) -> str:
    """One table: every claim, and what is measured of it on which device."""
    results = [_read(path) for path in sorted(folder.glob("*.json"))]
    results = [content for content in results if not content["toy"]]
    lines = [
        "# What a GPU shows, and what still waits for one",
        "",
        "`make gpu-bundle` collects what a bare machine with a GPU lacks and prints the command to start there, whose",
        "end is `python -m benchmarks.gpu --minutes 8 --out benchmarks/results/gpu`. Given again, it goes on where it",
        "stopped. It writes this page. A claim that waits is a claim, not a result.",
        "",
        "| part | what it would show | state |",
        "|---|---|---|",
    ]
    for part in PARTS:
        cases = list(part.module.cases(toy=False))
        for claim, beginning in part.claims:
            mine = [case for case in cases if case.startswith(beginning)]
            lines.append(f"| {part.name} | {claim} | {'; '.join(_states(results, part, mine)) or 'waits'} |")
    return "\n".join(lines) + "\n"


def _states(results: list[dict[str, Any]], part: Part, cases: list[str]) -> Iterator[str]:
    for content in results:
        known = content["parts"].get(part.name, {})
        states = [known.get(case, {"state": WAITING})["state"] for case in cases]
        if set(states) == {WAITING}:
            continue
        counts = [f"{states.count(each)} {each}" for each in (DONE, FAILED, CUT, WAITING) if each in states]
        yield f"[{content['device']}]({_slug(content['device'])}.md): {', '.join(counts)} of {len(states)}"


def _slug(device: str) -> str:
    """The beginning of a device's file names."""
    return re.sub("[^a-z0-9]+", "-", device.lower()).strip("-")
