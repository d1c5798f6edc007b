"""What the pages show of runs, as HTML in which every value is text."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bitdial.app.records import FileEntry, RunStatus, Score, SeriesPart
from bitdial.app.web.curves import Chart, draw
from bitdial.own_files import is_place
from bitdial.wording import bytes_text, duration

SHOWN_VALUES = ("loss", "train_loss", "bits", "scale", "loss_scale", "gamma", "learning_rate", "best_accuracy")
"""Numbers of the log that are told beside the progress."""
_PANELS: tuple[tuple[str, tuple[str, ...], bool, bool], ...] = (
    ("loss", ("train_loss", "val_loss", "loss"), False, False),
    ("accuracy", ("train_accuracy", "val_accuracy"), True, False),
    ("mean width of the layers, bits", ("bits",), False, True),
    ("gamma", ("gamma",), False, False),
    ("loss scale", ("loss_scale", "scale"), False, True),
    ("bits per pixel", ("train_bpp", "val_bpp", "bpp"), False, False),
    ("PSNR, dB", ("val_psnr", "psnr"), False, False),
)
"""Title, columns, whether they are shares, whether a value holds until the next one."""


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""


@cache
def _module() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "duration": duration,
        "size": bytes_text,
        "score": Score.told,
        "when": _when,
        "markup": Markup,
        "plain": plain,
        "named": lambda name: name.rpartition("/")[2] if is_place(name) else name,  # of a function in a file
        "breakable": lambda name: Markup("_<wbr>").join(name.split("_")),
    }
    environment.globals |= {"shown_values": SHOWN_VALUES, "rows_of": benchmark_rows, "machine_rows": machine_rows}
    return environment.from_string(resources.files(__package__).joinpath("views.html").read_text("utf-8"))


def view(name: str, *values: Any, **context: Any) -> str:
    """One of the pieces of ``views.html``."""
    return str(getattr(_module().make_module(context), name)(*values))


def plain(value: object) -> str:
    """A value as options are written: true, false and none, whole numbers without a point."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


def benchmark_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table of a benchmark."""
    plain, rows = found["rows"][0], []
    for number, row in enumerate(found["rows"]):
        low, high = (1e3 * each for each in row["quartiles"])
        speedup = found["speedup"] if number == 1 else plain["seconds"] / row["seconds"]
        rows.append(
            [
                row["name"],
                f"{1e3 * row['seconds']:.3g}",
                f"{low:.3g} to {high:.3g}",
                f"{speedup:.2f}",
                f"{row['memory_bytes'] / 1e6:.1f}",
            ]
        )
    return rows


def machine_rows(found: Any) -> list[tuple[str, str]]:
    """Names and values of what is nested in groups."""
    if not isinstance(found, Mapping):
        return []
    rows: list[tuple[str, str]] = []
    for name, value in found.items():
        if isinstance(value, Mapping) and "works" in value:  # a finding
            value = value["value"]
        inner = machine_rows(value)
        rows += inner or [(str(name), " ".join(map(str, value)) if isinstance(value, list) else str(value))]
    return rows


def command(line: str, faults: Sequence[str], config: str) -> str:
    """What is wrong with a form, or the download of its configuration."""
    return view("command", line, faults, base64.b64encode(config.encode()).decode())


def files(run: str, entries: Sequence[FileEntry]) -> str:
    """Links to what a run left."""
    return view("files", run, entries, any(entry.name == "report.html" for entry in entries))


def charts_of(series: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Markup]:
    """Drawings of what the logs of runs hold: loss, accuracy, and whatever a schedule turned.

    Args:
        series: name of the run ("" for the only one) -> rows of its log.
    """
    drawn = []
    for title, columns, share, steps in _PANELS:
        lines: dict[str, list[tuple[float, float]]] = {}
        for run, rows in series.items():
            averaged = any(columns[0] in row for row in rows)  # then the third is the same of single steps
            for row in rows:
                for column in columns[: 2 if averaged else 3]:
                    value, step = row.get(column), row.get("step")
                    if isinstance(value, int | float) and isinstance(step, int | float):
                        lines.setdefault(_named(run, row, column, columns), []).append((step, value))
        if lines:
            drawn.append(draw(Chart(title, lines, share, steps)))
    return drawn


def _named(run: str, row: Mapping[str, Any], column: str, columns: Sequence[str]) -> str:
    phase = str(row.get("phase") or row.get("arm") or row.get("experiment") or "")
    kind = (
        {"train_": "training", "val_": "held out"}.get(column[: column.find("_") + 1], "") if len(columns) > 1 else ""
    )
    seed = row.get("seed")
    scope = " ".join(
        each for each in (phase, f"seed {seed:g}" if isinstance(seed, float | int) and seed else "") if each
    )
    return " · ".join(each for each in (run, scope, kind) if each) or column.rpartition("/")[2].replace("_", " ")


def differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Options that all runs have, and of which they have different ones, flattened."""
    flat = [_flat(each) for each in configs]
    names = [name for name in (flat[0] if flat else {}) if all(name in each for each in flat)]
    rows = {name: [each[name] for each in flat] for name in names if name not in ("run_dir", "resume")}
    return {name: values for name, values in rows.items() if len({*values}) > 1}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            text = " ".join(map(plain, value)) if isinstance(value, list) else plain(value)
            found[f"{prefix}{name}"] = text if len(text) <= 60 else f"{text[:57]}..."
    return found


def all_rows(read: Any, most: int = 20_000) -> list[dict[str, Any]]:
    """Rows of a log, read in parts until there are no more, or enough.

    Args:
        read: `since` -> `SeriesPart`.
        most: so many rows at most.
    """
    rows: list[dict[str, Any]] = []
    since = ""
    while True:
        part: SeriesPart = read(since)
        rows = [*([] if part.anew else rows), *part.rows]
        since = part.next
        if not part.more or len(rows) >= most:
            return rows


def progress(status: RunStatus) -> str:
    """State, progress and numbers of a run."""
    return view("progress", status)
