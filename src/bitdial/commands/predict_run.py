"""What ``bitdial predict`` does: pictures are found and read, predicted some at a time, and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from bitdial.commands.picture_paths import files_below, printable
from bitdial.data.pictures import readable_kinds, unreadable_kinds
from bitdial.errors import BitdialError
from bitdial.machine import usable_cores
from bitdial.runtime import load
from bitdial.runtime.pictures import Guess, Pictures
from bitdial.terminal import terminal

if TYPE_CHECKING:
    from bitdial.commands.predict import PredictConfig

TOGETHER = 32
"""Pictures that are predicted at a time."""

Found = list[tuple[Path, list[Guess]]]


def predict(model: Path, images: Sequence[Path], options: PredictConfig) -> int:
    """Predict pictures; return the exit status, 2 where one could not be read."""
    network = load(model, threads=options.threads or usable_cores(), way=options.way, device=options.device)
    pictures = Pictures(network.described)
    failures = dict[Path, str]()
    found = Found()
    read = _read(_paths(images), pictures, failures)
    while batch := list(islice(read, TOGETHER)):
        outputs = network(pictures.batch([pixels for _, pixels in batch]))
        guesses = pictures.guesses(outputs, options.top)
        found += [(path, each) for (path, _), each in zip(batch, guesses, strict=True)]
    told = str(network.chosen)
    if options.json_output:
        rows = [
            {"image": printable(path), "classes": [{"name": g.name, "probability": round(g.share, 6)} for g in each]}
            for path, each in found
        ]
        left = {printable(path): printable(reason) for path, reason in failures.items()}
        print(json.dumps({"computed_by": told, "predictions": rows, "failures": left}, indent=2))
        return 2 if failures else 0
    _print(found, told)
    for reason in failures.values():
        terminal(stderr=True).print(Text(printable(f"left out: {reason}")), soft_wrap=True)
    return 2 if failures else 0


def _paths(images: Sequence[Path]) -> list[Path]:
    """Every picture once; those of folders by their endings."""
    found: list[Path] = []
    for path in images:
        inside = list(files_below(path, readable_kinds() | unreadable_kinds())) if path.is_dir() else [path]
        if not inside:
            raise BitdialError(f"expected pictures in {printable(path)}, got none; name a folder that has some")
        found += inside
    return list(dict.fromkeys(found))


def _read(paths: Sequence[Path], pictures: Pictures, failures: dict[Path, str]) -> Iterator[tuple[Path, Tensor]]:
    for path in paths:
        try:
            yield path, pictures.read(path)
        except BitdialError as error:
            failures[path] = str(error)


def _print(found: Found, told: str) -> None:
    console = terminal()
    if not found:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("picture", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("then", overflow="fold")
    for path, guesses in found:
        first, *rest = guesses
        others = ", ".join(f"{guess.name} {guess.share:.1%}" for guess in rest)
        table.add_row(
            Text(printable(path)), Text(printable(first.name)), Text(f"{first.share:.1%}"), Text(printable(others))
        )
    console.print(table)
    console.print(Text(f"Computed by: {told}."))
