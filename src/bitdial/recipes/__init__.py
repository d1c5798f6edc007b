"""The jobs that ``bitdial train`` runs, and where the command line finds them."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from bitdial.errors import BitdialError, suggest

if TYPE_CHECKING:
    from bitdial.recipes.choices import Choices
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
"""Recipe name -> ``module:record``, and what it does in a line of at most 67 characters. The module brings torch,
and is imported only when the recipe runs; ``options`` beside it has the `CHOICES`, which help and errors need."""


def find_recipe(name: str) -> Recipe[Any, Any, Any, Any]:
    """The record of a recipe.

    Raises:
        BitdialError: there is none of that name.
    """
    found: Recipe[Any, Any, Any, Any] = resolve_name(_home(name))
    return found


def find_choices(name: str) -> Choices:
    """What can be chosen of a recipe, without loading torch.

    Raises:
        BitdialError: there is none of that name.
    """
    package = _home(name).partition(":")[0].rpartition(".")[0]
    found: Choices = resolve_name(f"{package}.options:CHOICES")
    return found


def _home(name: str) -> str:
    if name not in RECIPES:
        hint = suggest(str(name), RECIPES) or f"; there are: {', '.join(RECIPES)}"
        raise BitdialError(f"unknown recipe '{name}'{hint}")
    return RECIPES[name][0]


def recipe_of(config: Mapping[str, Any]) -> str:
    """The recipe that the configuration of a run is of; runs of earlier versions do not say it, but show it."""
    return str(config.get("recipe") or ("cyclic" if "cyclic" in config else "ternary"))
