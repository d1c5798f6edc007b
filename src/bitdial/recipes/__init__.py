"""The jobs that ``bitdial train`` runs, and where the command line finds them."""

from __future__ import annotations

RECIPES: dict[str, str] = {
    "cyclic": "bitdial.recipes.cyclic.command:run",
    "ternary": "bitdial.recipes.ternary.command:run",
}
"""Recipe name -> ``module:function``. The function takes the words after the recipe's name and returns an exit status;
its module is imported only when the recipe runs, so that help and errors come at once."""

SUMMARIES: dict[str, str] = {
    "cyclic": "train with cycling precision, fine-tune static precisions, compare",
    "ternary": "train ternary weights through a long, resumable run; pack them",
}
"""Recipe name -> what it does, in a line of at most 67 characters."""
