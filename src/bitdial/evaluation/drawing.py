"""What a drawn figure is to a page, and the colours that pages and figures share."""

from __future__ import annotations

from dataclasses import dataclass

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#7F6000")
"""Okabe & Ito, "Color Universal Design" (2008), without its yellow, which is lost on white."""
INK, FAINT, AXIS, GRID, STAR, RED, PAPER = "#222222", "#8a8a8a", "#999999", "#e6e6e6", "#F0E442", "#C8102E", "#ffffff"

_NAMED = {INK: "ink", FAINT: "faint", AXIS: "axis", GRID: "line", STAR: "star", RED: "red", PAPER: "card"}
PROPERTIES = (
    {"#000000": "var(--ink)"}
    | {colour.lower(): f"var(--{name})" for colour, name in _NAMED.items()}
    | {colour.lower(): f"var(--c{number})" for number, colour in enumerate(COLOURS)}
)
"""What each of the colours is in a page, which has others for dark screens; see ``figures.css``."""


@dataclass(frozen=True)
class Drawing:
    """A figure, drawn.

    Attributes:
        png: for its file, on white.
        svg: the same for a page, in its colours; None where a figure is made of pixels.
        values: what a reader finds when pointing at it, as JSON.
    """

    png: bytes
    svg: str | None = None
    values: str = "[]"
