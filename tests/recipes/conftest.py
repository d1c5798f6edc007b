"""Settings for the tests of the recipes."""

from tests.quick_figures import _quick_figures, drawn

__all__ = ["_quick_figures", "drawn"]
