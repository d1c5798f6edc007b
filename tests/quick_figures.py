"""Runs that a test makes for itself draw no pictures: matplotlib takes longer over them than the training does.

The figures are made, of the run's own results, and they reach page, files and TensorBoard; only their pixels and paths
are those of an empty one. Runs that fixtures of a module or session make are drawn in full, and so are those of a test
that asks for `drawn`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from bitdial.evaluation import plot_style
from bitdial.evaluation.svg import inline_svg

_AS_PNG = plot_style.as_png


@pytest.fixture
def drawn() -> None:
    """Ask for it where a test looks at the pictures of a run of its own."""


@pytest.fixture(autouse=True)
def _quick_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(plot_style, "settle", lambda figure: None)
        monkeypatch.setattr(plot_style, "as_png", lambda figure: _empty()[0])
        monkeypatch.setattr(plot_style, "inline_svg", lambda figure, name: _empty()[1:])
        pixels = np.zeros((3, 2, 2), dtype=np.uint8)
        monkeypatch.setattr("torch.utils.tensorboard.writer.figure_to_image", lambda figure, close: pixels)


@cache
def _empty() -> tuple[bytes, str, str]:
    figure = plot_style.new_figure(0.2, 0.2)
    return _AS_PNG(figure), *inline_svg(figure, "empty")
