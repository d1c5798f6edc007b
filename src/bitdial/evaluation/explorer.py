"""A table of runs that a reader sorts and filters, with lines over parallel axes that can be brushed.

It is the one block that brings a script (``explorer.js``); a page without it has none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class ExplorerColumn:
    """A column of an `Explorer`.

    Attributes:
        name: the heading.
        numeric: whether it is sorted as numbers and drawn on an axis of numbers.
        axis: its place among the axes, from the left; None: it has none.
        log: whether that axis is logarithmic.
    """

    name: str
    numeric: bool = False
    axis: int | None = None
    log: bool = False


@dataclass(frozen=True)
class Explorer:
    """Runs to look through.

    Attributes:
        columns: the heading of the rows first.
        rows: a cell for every column: a number, a text (also of a number that JSON does not have), or None.
        colour: the column that the lines are coloured by; None: all alike.
        larger: whether larger is better there.
        caption: what it is.
    """

    columns: Sequence[ExplorerColumn]
    rows: Sequence[Sequence[float | str | None]]
    colour: int | None = None
    larger: bool = True
    caption: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), "a cell for every column"

    @property
    def data(self) -> Markup:
        """All of it as JSON that can stand in a script element: nothing in it ends the element or begins a comment."""
        columns = [
            {"name": each.name, "numeric": each.numeric, "axis": each.axis, "log": each.log} for each in self.columns
        ]
        data = {"columns": columns, "rows": self.rows, "colour": self.colour, "larger": self.larger}
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
        return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
