"""The one way to a terminal: what is printed stands there as it is, whatever names and paths a user has chosen."""

from __future__ import annotations

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
