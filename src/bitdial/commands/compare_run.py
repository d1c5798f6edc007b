"""What ``bitdial compare`` does once it knows the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table as Terminal
from rich.text import Text

from bitdial.data import Fingerprint
from bitdial.errors import BitdialError
from bitdial.evaluation import page as pages
from bitdial.evaluation import wording
from bitdial.evaluation.page import Block, Cell, Details, Page, Row, Section, Table, write_page
from bitdial.evaluation.results import RunResults
from bitdial.evaluation.shipped import Entry, Placed, headline, notes, place
from bitdial.recipes import find_recipe, recipe_of
from bitdial.terminal import terminal
from bitdial.training import RunFolder

COLUMNS = (
    "run",
    "recipe",
    "ships",
    "score",
    "seeds",
    "size",
    "BitOps to train\n(simulated)",
    "seconds\nto train",
    "data",
    "verdict",
)
_WIDE, _ON_THE_PAGE = 120, ("recipe", "seeds", "BitOps to train\n(simulated)", "data")
"""From which width on a terminal shows all columns, and those that it leaves to the page below that."""
_WORDS = ["recipe", "ships", "data", "verdict"]


def compare(folders: Sequence[RunFolder], report: Path | None) -> int:
    """Print the table, write the page, and return the exit status."""
    runs = {str(folder.path): (_results(folder), folder) for folder in folders}
    if len(runs) < len(folders):
        names = ", ".join(str(folder.path) for folder in folders)
        raise BitdialError(f"expected different runs to compare, got one twice: {names}")
    entries = [entry for name, (results, folder) in runs.items() for entry in _entries(name, results, folder)]
    placed = place(entries)
    answer, told = headline(placed), notes(entries)
    console = terminal()
    console.print(Text(answer))
    table = Terminal(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    kept = [number for number, column in enumerate(COLUMNS) if console.width >= _WIDE or column not in _ON_THE_PAGE]
    for column in (COLUMNS[number] for number in kept):
        left = column in ("run", *_WORDS)
        table.add_column(Text(column), justify="left" if left else "right", overflow="fold")
    for each in placed:
        cells = (each.entry.name, *_cells(each.entry), each.verdict)
        table.add_row(*(Text(cells[number]) for number in kept), style="bold" if each.best else None)
    console.print(table)
    for note in told:
        console.print(Text(note))
    if report is not None:
        differ = _settings({name: results.config for name, (results, _) in runs.items()})
        write_page(page_of(placed, answer, told, list(runs), differ), report)
        console.print(Text(f"Page: {report}"), soft_wrap=True)
    return 0


def _results(folder: RunFolder) -> RunResults:
    recipe = find_recipe(recipe_of(folder.load_config()))
    if not folder.results.is_file():
        raise BitdialError(
            f"{folder.path} has not finished, expected runs with results; `{recipe.prog} --resume {folder.path}` "
            "goes on"
        )
    found: RunResults = recipe.results.load(folder.results)
    return found


def _entries(name: str, results: RunResults, folder: RunFolder) -> list[Entry]:
    """What a run would ship, one entry each."""
    data = str(results.config.get("dataset") or results.config.get("data_path") or "photographs")
    marks = {"train": data, "test": data}
    if folder.data.is_file():
        found = Fingerprint.read(folder.data).short()
        marks |= {part: f"{each['examples']} {each['digest'] or data}" for part, each in found.items()}
    shipped = results.ships()
    if not shipped:
        raise BitdialError(f"{name} recommends nothing, expected runs that end with a network to ship; leave it out")
    return [
        Entry(
            name if len(shipped) == 1 else f"{name}: {each.what}",
            results.recipe,
            each,
            data,
            marks["test"],
            marks["train"],
        )
        for each in shipped
    ]


def _cells(entry: Entry) -> tuple[str, ...]:
    each = entry.shipped
    size = wording.MISSING if each.bytes is None else f"{each.bytes / 1024:,.1f} KiB"
    return (
        entry.recipe,
        each.what,
        each.written(),
        str(len(each.by_seed)),
        size if each.rate is None else f"{each.rate:.3f} bpp",
        wording.MISSING if each.bitops is None else wording.engineering(each.bitops),
        wording.seconds(each.seconds),
        entry.data,
    )


def _settings(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Each option in which runs differ -> its value in each."""
    flat = [_flat(config) for config in configs.values()]
    names = dict.fromkeys(name for each in flat for name in each)
    rows = {name: [str(each.get(name, wording.MISSING)) for each in flat] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


def page_of(
    placed: Sequence[Placed],
    answer: str,
    told: Sequence[str],
    names: Sequence[str],
    differ: Mapping[str, Sequence[str]],
) -> Page:
    """The page; `differ` has a value of each option for each of `names`, in their order."""
    blocks: list[Block] = [Section("What each run would ship"), _shipped(placed), *pages.notes_section(told)]
    shared = {name: values for name, values in differ.items() if len({*values} - {wording.MISSING}) > 1}
    alone = {name: values for name, values in differ.items() if name not in shared}
    tables = [
        Table(["option", *names], [Row(name, values) for name, values in options.items()], words=list(names))
        for options in (shared, alone)
        if options
    ]
    if shared:
        blocks += [Section("Options that differ"), tables[0]]
    if alone:
        blocks += [Details("Options that not every run has", [tables[-1]])]
    return Page(title="Runs side by side", meta=[f"{len(names)} runs"], headline=answer, blocks=blocks)


def _shipped(placed: Sequence[Placed]) -> Table:
    """What each run would ship, with the score and the verdict next to its name: a phone shows few columns."""
    order = sorted(range(1, len(COLUMNS)), key=lambda number: COLUMNS[number] not in ("score", "verdict"))
    rows = []
    for each in placed:
        cells: list[str | Cell] = [*_cells(each.entry), _verdict(each)]
        score = COLUMNS.index("score") - 1
        mean, _, both = each.entry.shipped.written().removesuffix(")").partition(" (")
        cells[score] = Cell(mean, below=both)
        rows.append(Row(each.entry.name, [cells[number - 1] for number in order], best=each.best))
    return Table(["run", *(COLUMNS[number] for number in order)], rows, words=_WORDS)


def _verdict(each: Placed) -> str | Cell:
    mark: Any = "bad" if each.verdict.startswith("worse") else "good" if each.best else None
    return Cell(each.verdict, mark) if mark else each.verdict
