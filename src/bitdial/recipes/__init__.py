"""The jobs that ``bitdial train`` runs, and where the command line finds them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bitdial.errors import BitdialError, suggest

if TYPE_CHECKING:
    from bitdial.recipes.recipe import Recipe

RECIPES: dict[str, tuple[str, str]] = {
    "cyclic": (
        "bitdial.recipes.cyclic.recipe:CYCLIC",
        "train with cycling precision, fine-tune static precisions, compare",
    ),
    "ternary": (
        "bitdial.recipes.ternary.recipe:TERNARY",
        "train ternary weights through a long, resumable run; pack them",
    ),
    "joint": ("bitdial.recipes.joint.recipe:JOINT", "train one network for many widths at once"),
    "compress": (
        "bitdial.recipes.compress.recipe:COMPRESS",
        "train an image codec whose files are real, and compare it",
    ),
}
"""Recipe name -> ``module:record``, and what it does in a line of at most 67 characters. The module is imported only
when the recipe runs, so that help and errors come at once."""


def find_recipe(name: str) -> Recipe[Any, Any, Any, Any]:
    """The record of a recipe.

    Raises:
        BitdialError: there is none of that name.
    """
    if name not in RECIPES:
        hint = suggest(str(name), RECIPES) or f"; there are: {', '.join(RECIPES)}"
        raise BitdialError(f"unknown recipe '{name}'{hint}")
    module, _, record = RECIPES[name][0].partition(":")
    found: Recipe[Any, Any, Any, Any] = getattr(importlib.import_module(module), record)
    return found


def recipe_of(config: Mapping[str, Any]) -> str:
    """The recipe that the configuration of a run is of; runs of earlier versions do not say it, but show it."""
    return str(config.get("recipe") or ("cyclic" if "cyclic" in config else "ternary"))
