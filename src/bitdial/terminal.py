"""The one way to a terminal: what is printed stands there as it is, whatever names and paths a user has chosen."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def terminal(**settings: Any) -> Console:
    """Return a `rich` console that takes no text for markup (``[red]``), emoji (``:cat:``) or something to highlight.

    Args:
        settings: as `rich.console.Console` takes them, such as ``stderr=True``.
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, **settings)


def as_text(show: Callable[[Console], None]) -> str:
    """Return what is printed, as plain text of 100 columns, for a `__repr__`."""
    console = terminal(width=100, file=io.StringIO(), color_system=None, force_terminal=False)
    with console.capture() as shown:
        show(console)
    return shown.get().rstrip()


def as_html(show: Callable[[Console], None]) -> str:
    """Return the same for a notebook, whose `_repr_html_` it is: lines are not broken, and wide ones scroll."""
    console = terminal(width=100, file=io.StringIO(), record=True)
    show(console)
    style = "white-space:pre;overflow-x:auto;line-height:1.25;font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace"
    return console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')
