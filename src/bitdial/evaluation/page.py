"""One HTML page for whatever a run found, made of blocks: no network, figures and their script inside.

A recipe says what its page shows, as a `Page` of blocks; how a page looks stands in ``page.html`` alone.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import yaml
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from bitdial.evaluation.drawing import Drawing
from bitdial.evaluation.explorer import Explorer
from bitdial.evaluation.results import Machine
from bitdial.files import write_atomically

Mark = Literal["framed", "faint", "good", "bad"]


@dataclass(frozen=True)
class Section:
    """A heading; what follows it, up to the next one, belongs to it."""

    title: str


@dataclass(frozen=True)
class Text:
    """A paragraph; a soft one is small and grey: it explains what stands above it."""

    text: str
    soft: bool = False


@dataclass(frozen=True)
class Items:
    """A list of sentences, in the order given."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names and values, line by line."""

    values: Mapping[str, str]


@dataclass(frozen=True)
class Pre:
    """Text whose lines and spaces stay as they are: a command, a file."""

    text: str


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until a reader, or the printer, asks for them."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Picture:
    """A figure, and what it shows in words."""

    drawing: Drawing
    caption: str


@dataclass(frozen=True)
class Cell:
    """A cell that is marked: with a frame, as faint, or with the colour of good or of bad news.

    Attributes:
        text: what it holds.
        mark: how it is marked.
        below: what stands small below the text.
    """

    text: str
    mark: Mark | None = None
    below: str = ""

    def __post_init__(self) -> None:
        assert self.mark is None or self.mark in get_args(Mark), self.mark


@dataclass(frozen=True)
class Row:
    """A row: its heading, which stays in sight when the table is scrolled sideways, and its cells.

    Attributes:
        name: the heading.
        cells: a plain string where there is nothing to mark.
        best: whether the row stands out from the others.
    """

    name: str
    cells: Sequence[str | Cell]
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table of numbers.

    Attributes:
        columns: the headings, that of the rows' names first; a newline breaks the line there.
        rows: from top to bottom, each with a cell for every column after the first.
        caption: what the numbers are, with units.
        words: the columns that hold words instead of numbers, by heading: they stand on the left and may wrap.
    """

    columns: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    words: Sequence[str] = ()

    def __post_init__(self) -> None:
        assert all(len(row.cells) == len(self.columns) - 1 for row in self.rows), "a cell for every column"
        assert set(self.words) <= set(self.columns), f"no column is called {self.words}"


@dataclass(frozen=True)
class Bars:
    """Shares of a whole as bars, in the order given.

    Attributes:
        shares: by name, in [0, 1].
    """

    shares: Mapping[str, float]


Block: TypeAlias = Section | Text | Items | Facts | Pre | Details | Picture | Table | Bars | Explorer


@dataclass(frozen=True)
class Tile:
    """One number to see first, and what it is."""

    value: str
    label: str


@dataclass(frozen=True)
class Page:
    """What a run found.

    Attributes:
        title: the heading of the page.
        meta: what stands small below it: sizes, dates.
        blocks: from top to bottom.
        headline: the answer, in a few words or a sentence.
        lines: what is to be said of it next, by name: a short sentence each. With them the headline is large.
        tiles: the numbers that matter most.
    """

    title: str
    meta: Sequence[str]
    blocks: Sequence[Block]
    headline: str | None = None
    lines: Mapping[str, str] = field(default_factory=dict)
    tiles: Sequence[Tile] = ()


def render_page(page: Page) -> str:
    """Return the page as HTML; every string in it is text, never markup."""
    blocks = [*_unfolded(page.blocks)]
    drawn = any(isinstance(block, Picture) and block.drawing.svg is not None for block in blocks)
    explored = any(isinstance(block, Explorer) for block in blocks)
    barred = any(isinstance(block, Bars) for block in blocks)
    styles = [_file("figures.css")] * drawn + [_file("explorer.css")] * (explored or barred)
    scripts = [_file("figures.js")] * drawn + [_file("explorer.js")] * explored
    return _template().render(page=page, style=Markup().join(styles), script=Markup().join(scripts))


def write_page(page: Page, path: str | Path) -> Path:
    """Write the page to `path` atomically and return it."""
    return write_atomically(path, render_page(page))


def made(created: str) -> str:
    """Return when results were made (ISO 8601), for the line below the title."""
    return f"made {created.replace('T', ' ').replace('+00:00', ' UTC')}"


def pictures(images: Mapping[str, Drawing], captions: Mapping[str, str]) -> list[Block]:
    """Return the figures in the order of `images`, each with the caption of its name."""
    return [Picture(image, captions[name]) for name, image in images.items()]


def notes_section(notes: Sequence[str]) -> list[Block]:
    """Return what a reader has to know to read the numbers rightly."""
    return [Section("Notes"), Items(notes) if notes else Text("None.")]


def reproduction_section(command: str, config: Mapping[str, Any], *, file: str, schema_version: int) -> list[Block]:
    """Return how to make the numbers again: the command line, every option, the file of the numbers and its version."""
    text = (
        "With the same configuration, seeds, machine and versions the numbers repeat as far as the hardware computes "
        f"deterministically; seconds vary. The numbers of this page are in {file} (schema version {schema_version})."
    )
    blocks: list[Block] = [Section("How to reproduce"), *([Pre(command)] if command else []), Text(text)]
    if config:
        options = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
        blocks.append(Details("Configuration", [Pre(options)]))
    return blocks


def machine_section(machine: Machine) -> list[Block]:
    """Return what the numbers were measured on."""
    return [
        Section("Machine"),
        Facts(
            {
                "Processor": f"{machine.processor}, {machine.cores} cores",
                "Accelerators": ", ".join(machine.accelerators) or "none",
                **({"Memory": f"{machine.memory_gib} GiB"} if machine.memory_gib else {}),
                "System": machine.system,
                "Python": machine.python,
                **machine.versions,
            }
        ),
    ]


def _breakable(name: str) -> Markup:
    """Let a name break where its words end, and a number nowhere."""
    return Markup(re.sub(r"(_|/|=|(?<=\w)\.(?=[a-z]))", r"\1<wbr>", str(escape(name))))


def _unfolded(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Details):
            yield from _unfolded(block.blocks)


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Callable[..., Any]] = {
        "kind": lambda block: type(block).__name__,
        "cell": lambda cell: cell if isinstance(cell, Cell) else Cell(cell),
        "breakable": _breakable,
        "code": lambda text: Markup(re.sub("`(.*?)`", r"<code>\1</code>", str(escape(text)))),
        "lines": lambda text: Markup("<br>").join(_breakable(line) for line in text.split("\n")),
        "base64": lambda image: base64.b64encode(image).decode("ascii"),
        "markup": Markup,
    }
    environment.filters.update(filters)
    return environment.from_string(_file("page.html"))


@cache
def _file(name: str) -> Markup:
    return Markup(resources.files("bitdial.evaluation").joinpath(name).read_text("utf-8"))
